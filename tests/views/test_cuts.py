"""The figure of two cuts: every point where it was measured, both bands, and what is no pair of cuts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    CurveGeometry,
    DensityInfo,
    Frame,
    FrameError,
    GrazingCutsGeometry,
    ModelInfo,
    Origin,
    Parameter,
    Posterior,
    Prediction,
    Trust,
    Verdict,
)
from nfphasing_bluesky.views.cuts import figure_cuts, is_cuts

Q_Y, EXITS = np.linspace(0.01, 0.1, 30), np.linspace(0.001, 0.02, 40)


@pytest.fixture
def measured() -> Frame:
    geometry = GrazingCutsGeometry(Q_Y, EXITS, (0.002, 0.003), (0.02, 0.021), 1e-10, math.radians(0.4))
    values = np.exp(-np.linspace(0, 3, 70))
    mask = np.zeros(70, bool)
    mask[3] = True
    return Frame(values, geometry, 0.1 * values, mask, Origin("cuts"))


@pytest.fixture
def found(measured) -> tuple[Posterior, ModelInfo]:
    z = np.linspace(-100, 300, 41)
    density = DensityInfo("rho_e(z)", "e/angstrom^3", (Axis("z", z, "angstrom"),))
    draws = 0.7 / (1 + np.exp(-z / 10)) + 0.01 * np.arange(8)[:, None]
    mean = 1.1 * measured.intensity
    posterior = Posterior(
        density=density,
        mean=draws.mean(0),
        std=draws.std(0),
        samples=draws,
        parameters={"radius_angstrom": np.linspace(40, 60, 8)},
        units={"radius_angstrom": "angstrom"},
        prediction=Prediction(mean, 0.9 * mean, 1.2 * mean),
        trust=Trust(1.0, None, 0.1, Verdict.VALID, ""),
        classes={},
        labels=np.empty(0, int),
        origin=measured.origin,
        latency_s=0.1,
    )
    info = ModelInfo(
        name="gisaxs1d",
        modality="gisaxs1d",
        version="0",
        sha256="0" * 64,
        density=density,
        parameters=(Parameter("radius_angstrom", "angstrom", "radius"),),
        classes=(),
    )
    return posterior, info


def test_both_cuts_show_their_points_and_predictions(measured, found):
    figure = figure_cuts(measured, *found)
    in_plane, ratio, upwards, _, density, _ = figure.axes
    handles, labels = in_plane.get_legend_handles_labels()
    points = dict(zip(labels, handles, strict=True))["measured ± σ"].lines[0]
    kept = np.delete(np.arange(30), 3)
    np.testing.assert_array_equal(points.get_xdata(), Q_Y[kept])
    np.testing.assert_array_equal(points.get_ydata(), measured.intensity[:30][kept])
    np.testing.assert_allclose(ratio.lines[-1].get_ydata(), 1 / 1.1)
    np.testing.assert_allclose(upwards.lines[-1].get_xdata(), np.degrees(EXITS))
    np.testing.assert_allclose(upwards.lines[-1].get_ydata(), 1.1 * measured.intensity[30:])
    assert "0.115 to 0.172" in in_plane.get_title() and "0.02 to 0.021" in upwards.get_title()
    assert density.get_xlabel() == "z (Å)"


def test_a_curve_is_no_pair_of_cuts(measured, found):
    q = np.linspace(0.01, 0.1, 70)
    curve = Frame(measured.intensity, CurveGeometry(q), measured.sigma)
    assert is_cuts(measured) and not is_cuts(curve)
    with pytest.raises(FrameError, match="CurveGeometry"):
        figure_cuts(curve, *found)


def test_long_lines_of_parameters_neither_touch_nor_leave_the_figure(measured, found):
    posterior, info = found
    names = [f"parameter_{i}" for i in range(14)]
    draws = 1e-3 * np.array([-1.7, -1.5, 0.1, 0.4, 0.4, 0.5, 0.6, 0.7])
    wordy = replace(posterior, parameters=dict.fromkeys(names, draws), units=dict.fromkeys(names, "degree"))
    parameters = tuple(Parameter(n, "degree", n.replace("parameter_", "angle offset ")) for n in names)
    figure = figure_cuts(measured, wordy, replace(info, parameters=parameters))
    figure.draw_without_rendering()
    lines = [t for axes in figure.axes for t in axes.texts if "offset" in t.get_text()]
    assert len(lines) == 14
    boxes = [line.get_window_extent() for line in lines]
    assert max(box.x1 for box in boxes) < figure.bbox.x1
    left, right = boxes[:7], boxes[7:]
    assert max(box.x1 for box in left) < min(box.x0 for box in right)
    assert all(line.get_fontsize() >= 6 for line in lines)
