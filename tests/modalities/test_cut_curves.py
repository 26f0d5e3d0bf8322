"""Pairs of cuts: averaging, errors, and the bands that they are means over."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    CurveGeometry,
    Frame,
    FrameError,
    GeometryError,
    GrazingCutsGeometry,
    Origin,
)
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.grazing.cut_curves import IN_PLANE, OUT_OF_PLANE, collate
from nfphasing_bluesky.modalities.grazing.cut_model import FINE, Detail, cuts


def geometry(points: int = 40, **changes) -> GrazingCutsGeometry:
    made = GrazingCutsGeometry(
        np.linspace(0.005, 0.15, points),
        np.radians(np.linspace(0.05, 1.5, points)),
        (math.radians(0.15), math.radians(0.2)),
        (0.02, 0.025),
        1.2e-10,
        math.radians(0.4),
    )
    return replace(made, **changes)


def frame(points: int = 40, **changes) -> Frame:
    q = geometry(points).q_inv_angstrom
    values = 100 * np.exp(-20 * q)
    return replace(Frame(values, geometry(points), 0.02 * values, origin=Origin("cuts")), **changes)


def test_short_cuts_are_padded_and_the_padding_is_masked():
    batch = collate([frame()], 0.0)
    assert batch.points.shape == (1, IN_PLANE + OUT_OF_PLANE)
    assert (~batch.mask).sum() == 80
    assert torch.equal(batch.points[0, :40], torch.tensor(geometry().q_y_inv_angstrom))
    assert torch.equal(batch.points[0, 40:IN_PLANE], batch.points[0, 39].expand(IN_PLANE - 40))
    assert batch.beam[0].tolist() == pytest.approx(
        [2 * math.pi / 1.2, math.radians(0.4), math.radians(0.15), math.radians(0.2), 0.02, 0.025]
    )


def test_long_cuts_are_averaged_with_their_errors():
    batch = collate([frame(1000)], 0.0)
    good = ~batch.mask[0]
    assert int(good.sum()) == IN_PLANE + OUT_OF_PLANE
    q_y = batch.points[0, :IN_PLANE].double()
    assert (q_y.diff() > 0).all() and float(q_y.diff()[-1]) > 3 * float(q_y.diff()[0])
    expected = 100 * np.exp(-20 * q_y.numpy())
    assert batch.intensity[0, :IN_PLANE].numpy() == pytest.approx(expected, rel=0.01)
    # of so many points that are 2 % off each
    number = np.histogram(geometry(1000).q_y_inv_angstrom, IN_PLANE)[0].mean()
    relative = (batch.sigma / batch.intensity)[0, :IN_PLANE]
    assert float(relative.log().mean().exp()) == pytest.approx(0.02 / math.sqrt(number), rel=0.15)


def test_masked_points_do_not_show():
    spoilt = frame(1000)
    values, mask = spoilt.intensity.copy(), np.zeros(2000, bool)
    mask[100:200] = True
    values[mask] = 1e9
    batch = collate([replace(spoilt, intensity=values, mask=mask)], 0.0)
    assert float(batch.intensity.max()) < 110


def test_what_cannot_be_used_says_why():
    with pytest.raises(GeometryError, match="incidence angle"):
        q = np.linspace(0.01, 0.1, 50)
        collate([Frame(q, CurveGeometry(q), q)], 0.0)
    with pytest.raises(FrameError, match="sigma is missing"):
        collate([frame(sigma=None)], 0.0)
    mask = np.zeros(80, bool)
    mask[40:75] = True
    with pytest.raises(FrameError, match="5 usable points in the out-of-plane cut"):
        collate([frame(mask=mask)], 0.0)
    with pytest.raises(FrameError, match="nothing stands out of the noise"):
        collate([frame(sigma=np.full(80, 1e4))], 0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"incidence_rad": 0.0}, "a beam along the surface lights nothing"),
        ({"incidence_rad": 0.4}, "in radians"),
        ({"wavelength_m": -1.0}, "positive length"),
        ({"exit_rad": np.array([0.02, 0.01])}, "not increasing"),
        ({"exit_band_rad": (0.01, 0.005)}, "lower first"),
    ],
)
def test_impossible_geometries_are_refused(changes, words):
    with pytest.raises(GeometryError, match=words):
        geometry(**changes)


def test_the_bands_are_averaged_finely_enough():
    """Nine samples in ten; sharp resonances in thick films take more exit angles than there are."""
    subject = modality("gisaxs1d")
    generator = torch.Generator().manual_seed(5)
    draws = subject.sample_prior(40, generator)
    batch, _ = subject.simulate(draws, generator)
    for kind, spec in enumerate(subject.classes):
        mine = (draws.label == kind).nonzero()[:, 0]
        theta, packed = draws.theta[mine, : len(spec.free)], batch.q[mine]
        found, exact = cuts(theta, kind, packed, FINE), cuts(theta, kind, packed, Detail(48, 24, 12))
        strong = exact + 0.03 * exact.amax(1, keepdim=True)
        assert float(((found - exact).abs() / strong).amax(1).quantile(0.75)) < 0.05


def test_a_surface_that_is_turned_moves_its_horizon():
    subject = modality("gisaxs1d")
    batch = collate([frame()], 0.0)
    theta = torch.full((2, subject.width), 0.5)
    theta[0, CLASS_OFFSET], theta[1, CLASS_OFFSET] = 0.0, 1.0
    draws = Draws(torch.zeros(2, dtype=torch.long), theta, torch.zeros(2, dtype=torch.long))
    low, high = subject.forward(draws, batch)[:, IN_PLANE : IN_PLANE + 20]
    # seen from a surface that is turned down, everything leaves at higher angles
    assert int(low.argmax()) < int(high.argmax()) or float(low[0]) > float(high[0])


CLASS_OFFSET = modality("gisaxs1d").classes[0].free.index("incidence_offset_degree")
