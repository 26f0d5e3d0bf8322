"""Figures: what they show, number by number, and that they leave pyplot alone."""

import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from nfphasing_bluesky.core import (
    CurveGeometry,
    DetectorGeometry,
    Frame,
    FrameError,
    ModelInfo,
    Parameter,
    StorageError,
    Summary,
    Trust,
    Verdict,
)
from nfphasing_bluesky.views.colours import LIGHTS
from nfphasing_bluesky.views.figures import figure_1d, save_figure
from nfphasing_bluesky.views.text import class_line, measured, parameter_lines, pretty_unit, trust_line
from tests.head_room import head_room


def by_label(axes):
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def all_text(figure):
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts) + "\n".join(
        text.get_text() for text in figure.texts
    )


def test_the_three_panels_show_the_numbers(conalbumin):
    frame, posterior, info = conalbumin
    figure = figure_1d(frame, posterior, info)
    data, residuals, density, _ = figure.axes
    points = by_label(data)["measured ± σ"].lines[0]
    np.testing.assert_array_equal(points.get_ydata(), frame.intensity)
    np.testing.assert_array_equal(
        by_label(data)["posterior prediction"].get_ydata(), posterior.prediction.mean
    )
    expected = (frame.intensity - posterior.prediction.mean) / frame.sigma
    np.testing.assert_allclose(residuals.lines[-1].get_ydata(), expected)
    np.testing.assert_array_equal(by_label(density)["mean"].get_ydata(), posterior.mean)
    band = by_label(density)["95 %"].get_paths()[0].vertices[:, 1]
    low, high = np.quantile(posterior.samples, [0.025, 0.975], axis=0, method="weibull")
    assert band.min() == pytest.approx(low.min()) and band.max() == pytest.approx(high.max())
    assert "12 of 256 draws" in by_label(density)
    assert density.get_xlabel() == "r (Å)" and density.get_ylabel() == "p(r) (Å⁻¹)"
    assert data.get_xscale() == "log", "q spans a factor of 70"


@pytest.mark.parametrize("reason", ["", "one line", "many words that go on " * 20])
def test_nothing_is_drawn_over_the_title_and_the_reason(conalbumin, reason):
    frame, posterior, info = conalbumin
    doubted = replace(posterior, trust=replace(posterior.trust, verdict=Verdict.WARNING, reason=reason))
    assert head_room(figure_1d(frame, doubted, info)) > 0


def test_a_reflectivity_is_called_so_over_even_q(conalbumin):
    frame, posterior, info = conalbumin
    (axis,) = posterior.density.axes
    depth = replace(posterior.density, axes=(replace(axis, name="z"),))
    data, residuals, *_ = figure_1d(frame, replace(posterior, density=depth), info).axes
    assert data.get_ylabel() == "R" and residuals.get_ylabel() == "(R − fit)/σ"
    assert data.get_xscale() == "linear"
    counts = replace(frame, intensity=1e6 * frame.intensity)
    data, *_ = figure_1d(counts, replace(posterior, density=depth), info).axes
    assert data.get_ylabel() == "R (arb. units)"


def test_negative_points_are_shown_and_not_hidden_by_the_logarithm(conalbumin):
    frame, posterior, info = conalbumin
    assert (frame.intensity < 0).any()
    data = figure_1d(frame, posterior, info).axes[0]
    assert data.get_yscale() == "symlog" and data.get_ylim()[0] < frame.intensity.min()
    lifted = replace(frame, intensity=np.abs(frame.intensity) + 1e-4)
    data = figure_1d(lifted, posterior, info).axes[0]
    assert data.get_yscale() == "log" and data.get_ylim()[0] < lifted.intensity.min()


def test_left_out_points_are_marked_and_take_no_part_in_the_residuals(conalbumin):
    frame, posterior, info = conalbumin
    mask = np.zeros(frame.intensity.size, bool)
    mask[:7] = True
    data, residuals, *_ = figure_1d(replace(frame, mask=mask), posterior, info).axes
    assert by_label(data)["7 left out"].get_xdata().size == 7
    assert residuals.lines[-1].get_xdata().size == frame.intensity.size - 7


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_light_has_the_colour_of_the_verdict_and_its_reason(conalbumin, verdict):
    frame, posterior, info = conalbumin
    trust = replace(posterior.trust, verdict=verdict, reason="q beyond the model's range " * 20)
    figure = figure_1d(frame, replace(posterior, trust=trust), info)
    (light,) = [text for text in figure.texts if text.get_text() == f"● {verdict}"]
    assert light.get_color() == LIGHTS[verdict]
    (reason,) = [text for text in figure.texts if text.get_text().startswith("q beyond")]
    lines = reason.get_text().splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 150, "a long reason must not run into the margin"


@pytest.mark.parametrize(("count", "absent"), [(1, 3), (9, 3), (16, 1000)])
def test_no_text_leaves_the_figure_or_runs_into_other_text(conalbumin, count, absent):
    frame, posterior, info = conalbumin
    names = [f"quantity_{n}_angstrom" for n in range(count)]
    draws = posterior.parameters["rg_angstrom"]
    crowded = replace(
        posterior,
        parameters={name: np.where(np.arange(draws.size) % absent, draws, np.nan) for name in names},
        units=dict.fromkeys(names, "angstrom"),
        classes={"core-shell sphere": 0.6, "sphere": 0.2, "cylinder": 0.1, "ellipsoid": 0.1},
    )
    info = replace(info, parameters=tuple(Parameter(name, "angstrom", "shell thickness") for name in names))
    figure = figure_1d(frame, crowded, info)
    figure.canvas.draw()
    page = figure.bbox
    boxes = [text.get_window_extent() for text in figure.axes[3].texts] + [figure.axes[2].get_tightbbox()]
    for index, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert not any(box.shrunk(0.97, 0.9).overlaps(other) for other in boxes[:index])


def test_saved_figure_has_1200_pixels_and_pyplot_stays_unused(conalbumin, tmp_path):
    frame, posterior, info = conalbumin
    path = save_figure(figure_1d(frame, posterior, info), tmp_path / "new" / "curve")
    assert path.name == "curve.png"
    assert matplotlib.image.imread(path).shape[:2] == (675, 1200)
    code = (
        "import sys; import nfphasing_bluesky.views.figures, nfphasing_bluesky.views.live; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_figure(figure_1d(frame, posterior, info), tmp_path / "file" / "curve.png")


def test_odd_frames_are_drawn_all_the_same(conalbumin):
    frame, posterior, info = conalbumin
    without = Frame(frame.intensity, frame.geometry)
    figure = figure_1d(without, posterior, info)
    assert figure.axes[1].get_ylabel() == "I − fit"
    absolute = replace(frame, geometry=replace(frame.geometry, absolute=True))
    assert figure_1d(absolute, posterior, info).axes[0].get_ylabel() == "I (cm⁻¹)"
    nothing = replace(frame, intensity=np.full(frame.intensity.size, np.nan))
    figure_1d(nothing, posterior, info).canvas.draw()


def test_images_are_refused(conalbumin):
    _, posterior, info = conalbumin
    geometry = DetectorGeometry(1e-10, 1.0, (1e-4, 1e-4), (0.0, 0.0))
    with pytest.raises(FrameError, match="figure_1d draws a curve"):
        figure_1d(Frame(np.ones((3, 3)), geometry), posterior, info)
    assert isinstance(info, ModelInfo) and isinstance(geometry, DetectorGeometry | CurveGeometry)


@pytest.mark.parametrize(
    ("unit", "pretty"),
    [
        ("angstrom", "Å"),
        ("1/angstrom", "Å⁻¹"),
        ("e/angstrom^3", "e Å⁻³"),
        ("e/angstrom**3", "e Å⁻³"),
        ("1/(cm angstrom)", "cm⁻¹ Å⁻¹"),
        ("1/cm", "cm⁻¹"),
        ("1", ""),
        ("", ""),
        ("rad", "rad"),
    ],
)
def test_units_for_people(unit, pretty):
    assert pretty_unit(unit) == pretty


@pytest.mark.parametrize(
    ("median", "below", "above", "unit", "text"),
    [
        (33.196, 0.142, 0.134, "angstrom", "33.20 ± 0.14 Å"),
        (60.0, 0.5, 3.0, "angstrom", "60.0 +3.0 −0.5 Å"),
        (0.0101, 0.0002, 0.0002, "1", "0.01010 ± 0.00020"),
        (1.99e-4, 1e-5, 1e-5, "1/cm", "(1.99 ± 0.10) ×10⁻⁴ cm⁻¹"),
        (2.5e7, 1e6, 1e6, "1", "(2.50 ± 0.10) ×10⁷"),
        (101.0, 12.0, 12.0, "angstrom", "101 ± 12 Å"),
        (5.0, 0.0, 0.0, "angstrom", "5 Å"),
        (float("nan"), 0.0, 0.0, "angstrom", "not defined"),
    ],
)
def test_measured_values_have_two_digits_of_uncertainty(median, below, above, unit, text):
    summary = Summary(median, 0.0, 0.0, median - below, median + above, 0.0, unit)
    assert measured(summary) == text


def test_lines_of_parameters_classes_and_checks(conalbumin):
    _, posterior, info = conalbumin
    half = np.where(np.arange(256) % 2, 30.0, np.nan)
    odd = replace(
        posterior,
        parameters={**posterior.parameters, "radius_angstrom": half, "none": np.full(256, np.nan)},
        units={**posterior.units, "radius_angstrom": "angstrom", "none": "1"},
        classes={"sphere": 0.2, "cylinder": 0.8, "ellipsoid": 0.001},
    )
    lines = parameter_lines(odd, info)
    assert lines[0].startswith("Rg = 31.5") and lines[0].endswith("Å")
    assert lines[-1] == "radius_angstrom = 30 Å  (in 50 % of draws)"
    assert class_line(odd) == "cylinder 80 % · sphere 20 %"
    trust = Trust(1.234, None, 0.5, Verdict.VALID)
    assert trust_line(trust) == "reduced χ² 1.23 · distance to training 0.50 (limit 1)"
    assert "effective samples 31 %" in trust_line(replace(trust, ess_fraction=0.31))
