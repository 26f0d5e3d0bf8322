"""Figures of small-angle patterns: q the right way round, in units, residuals in sigma."""

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    DetectorGeometry,
    Frame,
    ModelInfo,
    Origin,
    Parameter,
    PlaneGeometry,
    Posterior,
    Prediction,
    Trust,
    Verdict,
)
from nfphasing_bluesky.views.images import figure_2d

SIDE = 21
Q = np.linspace(-0.1, 0.1, SIDE)
AXIS = np.linspace(-90.0, 90.0, 10)
INFO = DensityInfo(
    "projected density", "angstrom", (Axis("y", -AXIS, "angstrom"), Axis("x", AXIS, "angstrom"))
)
MODEL = ModelInfo("m", "saxs2d-oriented", "1", "0" * 64, INFO, (Parameter("phi_deg", "degree", "azimuth"),))


def posterior(fit: np.ndarray) -> Posterior:
    draws = np.zeros((5, 10, 10))
    draws[:, 1, 8] = 40.0  # the upper right: x and y positive
    return Posterior(
        INFO,
        draws.mean(0),
        draws.std(0),
        draws,
        {"phi_deg": np.arange(5.0)},
        {"phi_deg": "degree"},
        Prediction(fit, fit, fit),
        Trust(1.0, 0.5, 0.1, Verdict.VALID),
        classes={"cylinder": 0.97, "parallelepiped": 0.03},
        origin=Origin("a pattern"),
    )


def panels(frame: Frame, fit: np.ndarray):
    figure = figure_2d(frame, posterior(fit), MODEL)
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}, figure


@pytest.fixture
def expected() -> np.ndarray:
    """Bright at qx = 0.05, qy = 0.03, with qy growing with the row."""
    qy, qx = np.meshgrid(Q, Q, indexing="ij")
    return 1e4 * np.exp(-((qx - 0.05) ** 2 + (qy - 0.03) ** 2) / 2e-4) + 4.0


def value_at(axes, x: float, y: float) -> float:
    """What is drawn at a place in the units of the axes."""
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    values = np.ma.filled(image.get_array(), np.nan)
    rows, columns = values.shape
    row = int((top - y) / (top - bottom) * rows)
    return float(values[row, int((x - left) / (right - left) * columns)])


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_q_grows_to_the_right_and_upwards(expected, flip):
    rows, columns = flip
    frame = Frame(expected[::rows, ::columns], PlaneGeometry(Q[::columns], Q[::rows]))
    shown, _ = panels(frame, expected[::rows, ::columns])
    for title in ("measured", "posterior prediction"):
        axes = shown[title]
        assert axes.get_xlabel() == "qx (Å⁻¹)" and axes.get_ylabel() == "qy (Å⁻¹)"
        assert axes.images[0].get_extent() == pytest.approx((-0.105, 0.105, -0.105, 0.105))
        assert value_at(axes, 0.05, 0.03) == expected.max()
        assert value_at(axes, 0.05, -0.03) < 0.5 * expected.max()


def test_the_particle_is_the_same_way_round():
    shown, _ = panels(Frame(np.ones((SIDE, SIDE)), PlaneGeometry(Q, Q)), np.ones((SIDE, SIDE)))
    axes = shown["posterior mean"]
    assert axes.get_ylabel() == "y (Å)"
    assert value_at(axes, 70.0, 70.0) == 40.0 and value_at(axes, 70.0, -70.0) == 0.0


def test_residuals_of_counts_are_in_the_root_of_the_prediction(expected):
    counts = expected + 3 * np.sqrt(expected)
    counts[4, 7] = -1
    mask = np.zeros(counts.shape, dtype=bool)
    mask[10] = True
    shown, figure = panels(Frame(counts, PlaneGeometry(Q, Q), mask=mask), expected)
    residual = np.ma.filled(np.ma.masked_invalid(shown["residual"].images[0].get_array()), np.nan)
    assert np.isnan(residual[SIDE - 1 - 10]).all() and np.isnan(residual[SIDE - 1 - 4, 7])
    np.testing.assert_allclose(residual[np.isfinite(residual)], 3.0)
    assert {"I (counts)", "(I − fit)/√fit"} <= {axes.get_ylabel() for axes in figure.axes}
    words = figure._supxlabel.get_text()
    assert "azimuth = 2.0 ± 2.0 degree" in words and "cylinder 97 %" in words


def test_reduced_intensities_have_their_sigma_and_their_unit(expected):
    geometry = PlaneGeometry(Q, Q, absolute=True)
    sigma = 0.5 * np.ones(expected.shape)
    shown, figure = panels(Frame(expected - 1.0, geometry, sigma), expected)
    np.testing.assert_allclose(shown["residual"].images[0].get_array(), -2.0)
    assert {"I (cm⁻¹)", "(I − fit)/σ"} <= {axes.get_ylabel() for axes in figure.axes}


def test_a_detector_is_drawn_over_its_q(expected):
    detector = DetectorGeometry(1e-10, 5.0, (1e-3, 1e-3), (8.5e-3, 12.5e-3))
    shown, _ = panels(Frame(expected, detector), expected)
    left, right, bottom, top = shown["measured"].images[0].get_extent()
    pixel = 2 * np.pi / 1.0 * 1e-3 / 5.0
    assert (left, right) == pytest.approx((-12.5 * pixel, 8.5 * pixel), rel=1e-3)
    assert (bottom, top) == pytest.approx((-8.5 * pixel, 12.5 * pixel), rel=1e-3)


def test_an_empty_pattern_can_be_drawn():
    zero = np.zeros((SIDE, SIDE))
    _, figure = panels(Frame(zero, PlaneGeometry(Q, Q), mask=zero == 0), zero)
    figure.canvas.draw()
