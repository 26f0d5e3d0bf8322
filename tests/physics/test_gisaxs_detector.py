"""Flat detectors in grazing incidence: places, horizon, what hides pixels, and counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.physics.gisaxs import scattered
from nfphasing_bluesky.physics.grazing.gisaxs_detector import (
    Exposure,
    GrazingDetector,
    blurred,
    counted,
    detector_pixels,
    expected_counts,
    module_gaps,
    rectangle,
    specular_stop,
)
from nfphasing_bluesky.physics.grazing.grazing import GrazingPixels
from tests.physics.test_gisaxs import GrazingSample, each, film, shape_of_interfaces, spheres

INCIDENCE = math.radians(0.5)
PIXEL_M = 0.4e-3
DETECTOR = GrazingDetector(1.4e-10, 1.5, (PIXEL_M, PIXEL_M), (12.3, 20.7), (90, 50))
WIDE = GrazingDetector(1.4e-10, 0.6, (PIXEL_M, 40 * PIXEL_M), (12.3, 6.5), (60, 13))
"""Its outer columns lie at 9 degrees: rows are off their level by up to 0.7 pixels."""


def sample() -> GrazingSample:
    return GrazingSample(film(), shape_of_interfaces(), (spheres(1),))


def turn_up(angle: float) -> np.ndarray:
    """Rotation of (along, across, up) that lifts what points along the first axis."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])


def angles(detector: GrazingDetector, incidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Exit angles and azimuths (H, W) by turning every pixel about the sample."""
    up, across = (v.numpy() for v in detector.offsets_m())
    x, y = np.meshgrid(across, up)
    lab = np.stack([np.full_like(x, detector.distance_m), x, y])
    lab = np.tensordot(turn_up(detector.normal_rad), lab, 1)
    to = np.tensordot(turn_up(-incidence), lab / np.linalg.norm(lab, axis=0), 1)
    return np.arcsin(to[2]), np.arctan2(to[1], to[0])


@pytest.mark.parametrize("normal_rad", [0.0, 2 * INCIDENCE, 0.03])
def test_where_pixels_look(normal_rad):
    detector = replace(WIDE, normal_rad=normal_rad)
    pixels = detector_pixels(detector, INCIDENCE, torch.float64)
    alpha, phi = angles(detector, INCIDENCE)
    k = 2 * math.pi / 1.4
    along, across = (v[0].numpy() for v in pixels.q_plane)
    np.testing.assert_allclose(along, k * (np.cos(alpha) * np.cos(phi) - math.cos(INCIDENCE)), atol=1e-12 * k)
    np.testing.assert_allclose(across, k * np.cos(alpha) * np.sin(phi), atol=1e-12 * k)
    assert (pixels.above_horizon[0].numpy() == (alpha > 0)).all()


def one_column(pixels: GrazingPixels, w: int, level_rad: torch.Tensor) -> torch.Tensor:
    """(N, H) pattern of one column whose levels are at the given exit angles (H,)."""
    column = GrazingPixels(
        wavelength_angstrom=1.4,
        incidence_rad=pixels.incidence_rad,
        level_rad=level_rad[None],
        q_plane=tuple(v[:, :, w : w + 1] for v in pixels.q_plane),
        exit_sine=pixels.exit_sine[:, :, w : w + 1],
        solid_angle=pixels.solid_angle[:, :, w : w + 1],
        dtype=torch.float64,
    )
    return scattered(sample(), column)[:, :, 0]


def test_rows_are_blended_to_the_exit_angles_of_their_pixels():
    """Against every column on its own, and much nearer than rows that are taken as straight.

    What is left lies next to the kinks at the critical angles: 10 % on two rows of the outermost columns.
    """
    pixels = detector_pixels(WIDE, INCIDENCE, torch.float64)
    assert pixels.blend is not None
    blended = scattered(sample(), pixels)
    exits = torch.tensor(angles(WIDE, INCIDENCE)[0])
    middle = WIDE.shape[1] // 2
    off, unblended = [], []
    for w in range(WIDE.shape[1]):
        exact = one_column(pixels, w, exits[:, w])
        seen = exact > 0
        assert (seen == (blended[:, :, w] > 0)).all()
        off.append(torch.log(blended[:, :, w][seen] / exact[seen]))
        unblended.append(torch.log(one_column(pixels, w, exits[:, middle])[seen] / exact[seen]))
    assert torch.cat(off).square().mean().sqrt() < 0.015
    assert torch.cat(off).abs().median() < 1e-5 < 5e-4 < torch.cat(unblended).abs().median()


def test_a_narrow_detector_needs_no_blending():
    near = detector_pixels(DETECTOR, INCIDENCE)
    assert near.blend is None and near.levels == DETECTOR.shape[0]


def test_pixels_cover_the_solid_angle_of_the_detector():
    half = 0.5 * PIXEL_M * 400
    square = GrazingDetector(1.4e-10, half, (PIXEL_M, PIXEL_M), (200.0, 200.0), (400, 400))
    seen = detector_pixels(square, INCIDENCE, torch.float64).solid_angle.sum().item()
    assert seen == pytest.approx(4 * math.pi / 6, rel=1e-5)


def test_horizon_and_reflected_beam_lie_where_they_are_said_to():
    pixels = detector_pixels(DETECTOR, INCIDENCE)
    horizon = DETECTOR.row_of(0.0, INCIDENCE)
    column = int(DETECTOR.normal_px[1])
    dark = int((~pixels.above_horizon[0, :, column]).sum())
    assert dark == round(horizon)
    reflected = DETECTOR.row_of(INCIDENCE, INCIDENCE)
    level = pixels.level_rad[0, int(reflected)].item()
    assert level == pytest.approx(INCIDENCE, abs=PIXEL_M / 1.5)
    q = pixels.q_parallel[0, int(reflected), column].item()
    assert q < 1.2 * 2 * math.pi / 1.4 * PIXEL_M / 1.5


def test_a_detector_upright_to_the_reflected_beam():
    tilted = replace(DETECTOR, normal_rad=2 * INCIDENCE)
    assert tilted.row_of(INCIDENCE, INCIDENCE) == pytest.approx(tilted.normal_px[0])
    level = detector_pixels(tilted, INCIDENCE).level_rad[0]
    row = tilted.row_of(0.0, INCIDENCE)
    assert row < 0 and level[0].item() == pytest.approx((0.5 - row) * PIXEL_M / 1.5, rel=1e-3)


def test_a_wrong_incidence_angle_moves_the_horizon():
    two = torch.tensor([INCIDENCE, 1.2 * INCIDENCE], dtype=torch.float64)
    above = detector_pixels(DETECTOR, two).above_horizon.sum((1, 2))
    rows = (above[0] - above[1]).item() / DETECTOR.shape[1]
    assert rows == pytest.approx(0.2 * INCIDENCE * 1.5 / PIXEL_M, abs=1)


def test_cropping_and_binning_keep_places():
    whole = detector_pixels(DETECTOR, INCIDENCE, torch.float64)
    part = detector_pixels(DETECTOR.cropped(slice(30, 70), slice(5, None)), INCIDENCE, torch.float64)
    for ours, all_of_it in zip(part.q_plane, whole.q_plane, strict=True):
        torch.testing.assert_close(ours, all_of_it[:, 30:70, 5:])
    binned = detector_pixels(DETECTOR.binned(3, 5), INCIDENCE, torch.float64)
    torch.testing.assert_close(binned.q_plane[1], whole.q_plane[1][:, 1::3, 2::5], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(binned.solid_angle, 15 * whole.solid_angle[:, 1::3, 2::5], rtol=1e-4, atol=0)


def test_stops_and_gaps():
    assert rectangle((4, 6), (1.0, 2.5), (2.2, 4.0)).int().tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    gaps = module_gaps((1043, 981), (195, 487), (17, 7))
    assert (~gaps).sum().item() == 5 * 2 * 195 * 487
    stop = specular_stop(DETECTOR, INCIDENCE, (4.0, 3.0))
    reflected, column = int(DETECTOR.row_of(INCIDENCE, INCIDENCE)), int(DETECTOR.normal_px[1])
    assert stop[reflected, column] and stop[int(DETECTOR.normal_px[0]), column] and not stop[-1].any()
    alone = specular_stop(DETECTOR, INCIDENCE, (4.0, 3.0), to_direct=False)
    assert alone[reflected, column] and not alone[int(DETECTOR.normal_px[0])].any()


def test_counts_are_those_of_the_cross_section_and_the_background():
    pixels = detector_pixels(DETECTOR, INCIDENCE, torch.float64)
    exposure = Exposure(photons=each(1e12), background=each(3.0))
    mean = expected_counts(sample(), pixels, exposure)
    assert (mean[:, ~pixels.above_horizon[0]] == 3.0).all()
    share = pixels.solid_angle / math.sin(INCIDENCE)
    torch.testing.assert_close(mean - 3.0, 1e12 * share * scattered(sample(), pixels))
    counts = counted(mean, torch.Generator().manual_seed(0))
    pull = (counts - mean) / mean.sqrt()
    assert abs(pull.mean().item()) < 0.03 and pull.std().item() == pytest.approx(1, abs=0.03)


def test_resolution_spreads_a_spot_and_keeps_its_counts():
    spot = torch.zeros(1, 41, 31, dtype=torch.float64)
    spot[0, 20, 15] = 1.0
    seen = blurred(spot, (2.0, 0.7))[0]
    assert seen.sum().item() == pytest.approx(1)
    for axis, sigma in ((0, 2.0), (1, 0.7)):
        line = seen.sum(1 - axis)
        place = torch.arange(len(line)) - (20.0, 15.0)[axis]
        # a pixel's own width adds 1/12
        assert (line * place**2).sum().item() == pytest.approx(sigma**2 + 1 / 12, rel=0.01)
    flat = torch.full((2, 9, 7), 3.0)
    torch.testing.assert_close(blurred(flat, (1.0, 1.0)), flat)
    torch.testing.assert_close(blurred(spot, (0.0, 0.0)), spot)


@pytest.mark.parametrize(
    "wrong",
    [{"distance_m": -1.0}, {"wavelength_m": math.nan}, {"shape": (0, 3)}, {"pixel_size_m": (0.0, 1.0)}],
)
def test_impossible_detectors_are_refused(wrong):
    right = {
        "wavelength_m": 1e-10,
        "distance_m": 1.0,
        "pixel_size_m": (1e-4, 1e-4),
        "normal_px": (0.0, 0.0),
        "shape": (3, 3),
    }
    with pytest.raises(ValueError, match="expected"):
        GrazingDetector(**right | wrong)
