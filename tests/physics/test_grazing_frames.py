"""Frames of the whole detector, cut: against the model of the cuts, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import CurveGeometry, Frame, FrameError, GeometryError, GrazingGeometry, Origin
from nfphasing_bluesky.modalities.grazing.cut_curves import collate
from nfphasing_bluesky.modalities.grazing.cut_model import FINE, cuts
from nfphasing_bluesky.modalities.grazing.particle_prior import SUPPORTED, sample_of
from nfphasing_bluesky.physics.gisaxs import GrazingSample
from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
from nfphasing_bluesky.physics.grazing.form_factors import whole_spheres
from nfphasing_bluesky.physics.grazing.gisaxs_detector import Exposure, detector_pixels, expected_counts
from nfphasing_bluesky.physics.grazing.grazing_frames import cuts_of, detector_of

SHAPE = (240, 300)
GEOMETRY = GrazingGeometry(1.3e-10, 2.0, (0.3e-3, 0.3e-3), (200.0, 150.0), math.radians(0.4))
PLACE = {
    "radius": 0.6,
    "aspect": math.log(1 / 0.3) / math.log(1.5 / 0.3),
    "spread": 0.2,
    "relative_distance": 0.4,
    "relative_disorder": 0.3,
    "relative_damping": 0.5,
    "root_coupling": 0.3,
    "substrate_density": 0.5,
    "substrate_absorption": 0.5,
    "substrate_roughness": 0.2,
    "incidence_offset_degree": 0.5,
}
"""Spheres on a surface, as places between the bounds."""


def theta() -> torch.Tensor:
    return torch.tensor([[PLACE[q.name] for q in SUPPORTED]], dtype=torch.float64)


@pytest.fixture(scope="module")
def frame() -> Frame:
    """Expected counts of spheres on a substrate, as the code for whole frames has them; row 0 on top."""
    sample = sample_of(theta(), 0, 16)
    one = torch.ones(1, dtype=torch.float64)
    b = sample.bodies
    spheres = Particles(
        whole_spheres(b.radius), b.share, 4 * one, 0.4 * one, 1e-5 * one, 0, 0 * one, sample.order
    )
    pixels = detector_pixels(detector_of(GEOMETRY, SHAPE), GEOMETRY.incidence_rad)
    exposure = Exposure(1e11 * one, 0.3 * one)
    mean = expected_counts(GrazingSample(sample.stack, particles=(spheres,)), pixels, exposure)[0]
    return Frame(mean.numpy()[::-1].astype(np.float64), GEOMETRY, origin=Origin("spheres"))


def test_the_cuts_are_those_of_the_model(frame):
    cut = cuts_of(replace(frame, geometry=replace(GEOMETRY, exit_rad=(0.0035, 0.0045))))
    batch = collate([replace(cut, intensity=cut.intensity - 0.3)], 0.0)
    model = cuts(theta(), 0, batch.q, FINE)[0].numpy()
    good, measured = (~batch.mask)[0].numpy(), batch.intensity[0].numpy()
    ratio = (model / measured)[good & (measured > 1)]
    ratio = ratio / np.median(ratio)
    # next to the horizon and to Yoneda's peak a pixel is an angle too wide
    assert np.quantile(np.abs(ratio - 1), 0.9) < 0.03
    assert np.abs(ratio - 1).max() < 0.25


def test_the_choice_of_cuts_is_the_peaks(frame):
    cut = cuts_of(frame)
    low, high = cut.geometry.exit_band_rad
    row = SHAPE[0] - int(np.delete(frame.intensity, np.s_[140:160], 1).sum(1).argmax()) - 0.5
    horizon = detector_of(GEOMETRY, SHAPE).row_of(0.0, GEOMETRY.incidence_rad)
    assert low < (row - horizon) * 0.3e-3 / 2.0 < high
    sample = sample_of(theta(), 0, 4)
    low, high = cut.geometry.q_y_band_inv_angstrom
    assert 0.7 * low < 2 * math.pi / float(sample.order.distance) < 1.5 * high


def test_masks_gaps_and_errors(frame):
    spoilt = frame.intensity.copy()
    spoilt[:, 100:110] = -1
    mask = np.zeros(SHAPE, bool)
    mask[:, 40] = True
    spoilt[:, 40] = 1e6
    whole, cut = cuts_of(frame), cuts_of(replace(frame, intensity=spoilt), mask)
    # both sides of the plane of incidence are one cut: the other one has what a gap hides
    assert cut.intensity.max() < 1.1 * whole.intensity.max()
    assert cut.geometry.in_plane == whole.geometry.in_plane
    assert cut.sigma[: cut.geometry.in_plane].sum() > whole.sigma[: whole.geometry.in_plane].sum()
    first = whole.intensity[0] * 8
    assert whole.sigma[0] == pytest.approx(whole.intensity[0] / math.sqrt(first), rel=0.8)


def test_gaps_of_zeros_are_left_out_and_named(frame, caplog):
    counts = np.random.default_rng(0).poisson(frame.intensity).astype(float)
    mask = np.zeros(SHAPE, bool)
    mask[80:90], mask[:, 100:104] = True, True
    masked = cuts_of(replace(frame, intensity=counts, mask=mask))
    dark = cuts_of(replace(frame, intensity=np.where(mask, 0.0, counts)))
    np.testing.assert_array_equal(dark.intensity, masked.intensity)
    assert "rows 80 to 89" in caplog.text and "columns 100 to 103" in caplog.text


def test_rows_may_be_counted_from_below(frame):
    row, column = GEOMETRY.beam_px
    upright = replace(GEOMETRY, beam_px=(SHAPE[0] - row, column), rows_up=True)
    other = cuts_of(replace(frame, intensity=frame.intensity[::-1], geometry=upright))
    np.testing.assert_allclose(other.intensity, cuts_of(frame).intensity, rtol=1e-10)


def test_a_horizon_elsewhere_is_found(frame):
    row, column = GEOMETRY.beam_px
    with pytest.raises(GeometryError, match=r"spheres: the surface scatters from row .* horizon"):
        cuts_of(replace(frame, geometry=replace(GEOMETRY, beam_px=(row - 20, column))))
    with pytest.raises(GeometryError, match="check whether the angle is"):
        cuts_of(replace(frame, geometry=replace(GEOMETRY, incidence_rad=math.radians(0.8))))


def test_what_cannot_be_cut_says_why(frame):
    q = np.linspace(0.01, 0.1, 20)
    with pytest.raises(GeometryError, match="expected GrazingGeometry"):
        cuts_of(Frame(q, CurveGeometry(q), q))
    with pytest.raises(FrameError, match="in-plane cut: no usable pixel"):
        cuts_of(replace(frame, geometry=replace(GEOMETRY, exit_rad=(0.03, 0.031))))
    with pytest.raises(GeometryError, match="no usable pixel lies over the horizon"):
        cuts_of(frame, np.ones(SHAPE, bool))
    with pytest.raises(GeometryError, match="lights nothing"):
        replace(GEOMETRY, incidence_rad=0.0)
