"""Polar bins against the pixels they are made of: what a fit sees, and what is lost."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, PlaneGeometry
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.oriented import oriented_patterns, polar
from nfphasing_bluesky.physics import saxs2d
from nfphasing_bluesky.physics.noise import local_counts
from nfphasing_bluesky.physics.particles.oriented import Gaussian, Orientation, gaussian_sizes

Q = 0.1
RADIUS, LENGTH, PHI, SPREAD, TILT_SPREAD, CUT, PD = 40.0, 260.0, 25.0, 9.0, 7.0, 3.0, 0.1


def rad(value: float) -> torch.Tensor:
    return torch.deg2rad(torch.tensor([value], dtype=torch.float64))


def axes(side: int, shift: float = 0.0) -> np.ndarray:
    return np.linspace(-Q, Q, side) + shift * 2 * Q / side


def pixels(side: int, phi: float = PHI, length: float = LENGTH, shift: float = 0.3) -> np.ndarray:
    """(side, side) pattern of cylinders at every pixel."""
    qy, qx = np.meshgrid(axes(side, -shift), axes(side, shift), indexing="ij")
    plane = saxs2d.plane(torch.from_numpy(qx), torch.from_numpy(qy), 700.0)
    view = Orientation(rad(90), rad(phi), None, Gaussian(rad(TILT_SPREAD), CUT), Gaussian(rad(SPREAD), CUT))
    one = [torch.tensor([v], dtype=torch.float64) for v in (RADIUS, length, PD)]
    return saxs2d.cylinder(plane, one[0], one[1], view, gaussian_sizes(one[2]))[0].numpy()


def frame(pattern: np.ndarray, scale: float, shift: float = 0.3, **others) -> Frame:
    side = len(pattern)
    return Frame(scale * pattern, PlaneGeometry(axes(side, shift), axes(side, -shift)), **others)


def truth(length: float = LENGTH, phi: float = PHI) -> Draws:
    """The cylinder of `pixels` in free coordinates."""
    spread, tilt_spread = np.radians([SPREAD, TILT_SPREAD])
    seen = length * np.exp(-0.5 * tilt_spread**2)
    ratio = np.log(tilt_spread / spread)
    theta = [np.log(RADIUS), np.radians(phi), 0.0, np.log(spread), ratio, np.log(seen), PD, CUT, 0.0]
    zero = torch.zeros(1, dtype=torch.long)
    return Draws(zero, torch.tensor([theta], dtype=torch.float64), zero)


@pytest.fixture(scope="module")
def subject():
    return modality("saxs2d-oriented")


# few pixels in a bin, some, many; and fringes of a long particle
@pytest.mark.parametrize(
    ("side", "length", "median", "rms"),
    [(64, 260.0, 1.5e-3, 1e-2), (161, 260.0, 5e-4, 4e-3), (401, 260.0, 2e-4, 2e-3), (161, 480.0, 8e-4, 6e-3)],
)
def test_the_model_at_bins_is_the_mean_over_their_pixels(subject, side, length, median, rms):
    """Relative errors, largest in the minima; reduced data are good to a per cent."""
    batch = oriented_patterns.collate([frame(pixels(side, length=length), 1e6)], 0.0)
    expected = 1e6 * subject.forward(truth(length), batch)[0]
    filled = ~batch.mask[0]
    error = ((expected - batch.intensity[0]).abs() / (expected + 1.0))[filled]
    assert float(error.median()) < median
    assert float(error.square().mean().sqrt()) < rms


def test_bins_keep_what_pixels_know(subject):
    """Fisher information of lengths, angles and spreads, of a bin's counts against its pixels'."""
    side, scale = 161, 1e4
    flat = 1.0

    def slopes(of) -> np.ndarray:
        steps = {"length": 2.0, "phi": 0.2}
        return np.stack([
            (of(**{n: base + h}) - of(**{n: base - h})) / (2 * h)
            for (n, h), base in zip(steps.items(), (LENGTH, PHI), strict=True)
        ])  # fmt: skip

    mean = scale * pixels(side) + flat
    inside = np.hypot(*np.meshgrid(axes(side, 0.3), axes(side, -0.3))) <= Q
    by_pixel = slopes(lambda **k: scale * pixels(side, **k))[:, inside]
    information = by_pixel @ (by_pixel / mean[inside]).T
    geometry = PlaneGeometry(axes(side, 0.3), axes(side, -0.3))
    batch = oriented_patterns.collate([Frame(mean, geometry, mask=~inside)], 0.0)
    filled = ~batch.mask[0]

    def at_bins(**k) -> np.ndarray:
        return scale * subject.forward(truth(**k), batch)[0][filled].numpy()

    index = polar.bin_index(*(torch.from_numpy(v.reshape(1, -1)) for v in geometry.maps()),
                            torch.from_numpy(inside.reshape(1, -1)), batch.q_top)  # fmt: skip
    fine = polar.summed(index, None, 1)
    steps = polar.whole_steps(batch.axis)
    counted = polar.joined_parts(polar.turned(fine, steps)).sum(3)[0][filled].numpy()
    by_bin = slopes(at_bins)
    kept = by_bin @ (by_bin * counted / (at_bins() + flat)).T
    ratio = np.linalg.eigvals(np.linalg.solve(information, kept)).real
    assert ratio.min() > 0.96 and ratio.max() < 1.01


@pytest.mark.parametrize("phi", [-90.0, -61.0, -45.0, -10.0, 0.0, 33.0, 45.0, 80.0, 89.5, 135.0])
def test_the_axis_follows_the_pattern_at_every_angle(phi):
    batch = oriented_patterns.collate([frame(pixels(96, phi=phi), 1e4)], 0.0)
    relative = (phi - float(batch.axis.rad2deg()) + 90) % 180 - 90
    assert relative == pytest.approx(-45.0, abs=2.0)


def test_a_turned_pattern_is_the_same_in_its_own_frame():
    """Up to where pixels lie in bins; a step of the fine sectors is 0.94 degrees."""
    step = 180 / polar.FINE
    first, second = (
        oriented_patterns.collate([frame(pixels(301, phi=PHI + a), 1e4)], 0.0) for a in (0, 40 * step)
    )
    assert float(second.axis - first.axis) == pytest.approx(np.radians(40 * step), abs=1e-9)
    both = ~first.mask & ~second.mask
    both[:, :4] = False
    ratio = (second.intensity / first.intensity.clamp_min(1.0))[both]
    assert float((ratio - 1).abs().median()) < 0.02
    contexts = [oriented_patterns.context(b) for b in (first, second)]
    filled = (contexts[0][0][0, 3] > 0) & (contexts[1][0][0, 3] > 0)
    assert float((contexts[0][0] - contexts[1][0])[0, :, filled].abs().median()) < 0.02
    torch.testing.assert_close(contexts[0][1][:, 1:], contexts[1][1][:, 1:], atol=1e-2, rtol=1e-2)


def test_the_axis_survives_missing_pixels():
    whole = frame(pixels(128), 1e4)
    mask = np.zeros((128, 128), dtype=bool)
    mask[70:78], mask[:, 30:36] = True, True
    mask[:64, :64] = True  # the other quarter has the same
    masked = Frame(whole.intensity, whole.geometry, mask=mask)
    first, second = (float(oriented_patterns.collate([f], 0.0).axis) for f in (whole, masked))
    assert second == pytest.approx(first, abs=np.radians(3))


def test_sigma_of_counts_is_that_of_the_mean():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.full((1, polar.RINGS, polar.SECTORS), 4.0, dtype=torch.float64)
    for level in (0.3, 1.0, 40.0):
        counts = torch.poisson(level * pixels, generator=generator)
        found, _ = local_counts(counts, pixels, circular=True)
        assert float(found.mean()) == pytest.approx(level, rel=0.1)
        pull = (counts / pixels - level) / (found / pixels).sqrt()
        assert float(pull.square().mean()) == pytest.approx(1, abs=0.15)
        # no pull to where counts are low by chance
        weight = pixels / found
        assert float((weight * counts / pixels).sum() / weight.sum()) == pytest.approx(level, rel=0.05)


def test_the_scale_of_a_known_pattern_is_not_pulled_at_any_dose():
    generator = torch.Generator().manual_seed(2)
    exposure = oriented_patterns.random_exposure(200, generator)
    flat = torch.ones_like(exposure.nominal.pixels)
    batch, scale = oriented_patterns.measured(exposure, flat, torch.zeros(200), generator)
    weight = batch.root_weight.square().double()
    precision = weight.sum((1, 2))
    pull = ((weight * batch.intensity).sum((1, 2)) / precision - scale) * precision.sqrt()
    assert abs(float(pull.mean())) < 0.25
