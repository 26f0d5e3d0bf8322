"""Figures of reconstructed images: what they show, on which scales, the right way up."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nfphasing_bluesky.core import (
    PROJECTED,
    Axis,
    DensityInfo,
    Frame,
    FrameError,
    HologramGeometry,
    ModelInfo,
    Origin,
    Parameter,
    Posterior,
    Prediction,
    Trust,
    Verdict,
)
from nfphasing_bluesky.views.figures import save_figure
from nfphasing_bluesky.views.images import draw_image, figure_2d
from nfphasing_bluesky.views.live import LiveReconstruction
from tests.head_room import head_room

ROWS, COLUMNS = 40, 64
INFO = DensityInfo(
    "phase",
    "rad",
    (Axis("y", 1e-7 * np.arange(ROWS), "m"), Axis("x", 1e-7 * np.arange(COLUMNS), "m")),
)
MODEL = ModelInfo(
    "some-model", "holography", "1", "0" * 64, INFO, (Parameter("mean_phase_rad", "rad", "mean"),)
)


def made(verdict=Verdict.VALID, reason="") -> tuple[Frame, Posterior]:
    rng = np.random.default_rng(0)
    mean = np.zeros((ROWS, COLUMNS))
    mean[3:9, 50:60] = -1.0  # towards the upper right corner
    samples = mean + 0.05 * rng.normal(size=(7, ROWS, COLUMNS))
    intensity = 1 + 0.1 * mean + 0.01 * rng.normal(size=mean.shape)
    mask = np.zeros(mean.shape, dtype=bool)
    mask[20, :] = True
    frame = Frame(intensity, HologramGeometry(0.01), np.full(mean.shape, 0.01), mask, Origin("a hologram"))
    fit = 1 + 0.1 * mean
    posterior = Posterior(
        INFO,
        samples.mean(0),
        samples.std(0),
        samples,
        {"mean_phase_rad": samples.mean((1, 2))},
        {"mean_phase_rad": "rad"},
        Prediction(fit, fit - 0.02, fit + 0.02),
        Trust(1.02, None, 0.3, verdict, reason),
        origin=frame.origin,
    )
    return frame, posterior


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_every_panel_shows_its_own_with_a_labelled_scale():
    frame, posterior = made()
    figure = figure_2d(frame, posterior, MODEL)
    shown = panels(figure)
    assert set(shown) == {
        "measured",
        "posterior prediction",
        "residual",
        "posterior mean",
        "standard deviation",
        "one of 7 draws",
    }
    np.testing.assert_allclose(shown["posterior mean"].images[0].get_array(), posterior.mean)
    np.testing.assert_allclose(shown["standard deviation"].images[0].get_array(), posterior.std)
    labels = {axes.get_ylabel() for axes in figure.axes}
    assert {"phase (rad)", "I", "(I − fit)/σ"} <= labels
    # the same colours for the same values
    for one, other in (("measured", "posterior prediction"), ("posterior mean", "one of 7 draws")):
        assert shown[one].images[0].get_clim() == shown[other].images[0].get_clim()
    low, high = shown["residual"].images[0].get_clim()
    assert low == -high <= -4


def test_phase_and_absorption_have_a_row_each_with_their_units():
    frame, posterior = made()
    two = DensityInfo("phase and absorption", "rad", (Axis("part", np.arange(2.0), ""), *INFO.axes))
    samples = np.stack([posterior.samples, -0.1 * posterior.samples], 1)
    posterior = replace(posterior, density=two, mean=samples.mean(0), std=samples.std(0), samples=samples)
    figure = figure_2d(frame, posterior, MODEL)
    shown, labels = panels(figure), [axes.get_ylabel() for axes in figure.axes]
    for part, name in enumerate(("phase", "absorption")):
        for title, image in (("posterior mean", posterior.mean), ("standard deviation", posterior.std)):
            panel = shown[f"{title}, {name}"].images[0]
            np.testing.assert_array_equal(panel.get_array(), image[part])
            assert panel.origin == "upper"
        mean, draw = (shown[f"{title}, {name}"] for title in ("posterior mean", "one of 7 draws"))
        assert mean.images[0].get_clim() == draw.images[0].get_clim()
        assert mean.get_xlabel() == "x (µm)"
    assert labels.count("phase (rad)") == labels.count("absorption") == 3


def test_row_0_is_at_the_top_and_lengths_have_handy_units():
    frame, posterior = made()
    shown = panels(figure_2d(frame, posterior, MODEL))["posterior mean"]
    assert shown.get_xlabel() == "x (µm)" and shown.get_ylabel() == "y (µm)"
    left, right, bottom, top = shown.images[0].get_extent()
    assert (left, right) == pytest.approx((-0.05, 6.35))
    assert (top, bottom) == pytest.approx((-0.05, 3.95))
    assert shown.images[0].origin == "upper"


@pytest.mark.parametrize(("quantity", "upwards"), [("phase", False), (PROJECTED, True)])
def test_the_live_view_shows_an_object_as_its_figure_does(quantity, upwards):
    frame, posterior = made()
    posterior = replace(posterior, density=replace(INFO, quantity=quantity))
    live = LiveReconstruction()
    live.show(posterior, MODEL)
    live.close()
    assert live.errors == 0
    for figure in (live.figure, figure_2d(frame, posterior, MODEL)):
        shown = panels(figure)
        for title, image in (("posterior mean", posterior.mean), ("standard deviation", posterior.std)):
            np.testing.assert_array_equal(shown[title].images[0].get_array(), image[:: -1 if upwards else 1])
            _, _, bottom, top = shown[title].images[0].get_extent()
            assert (top > bottom) == upwards and sorted((bottom, top)) == pytest.approx([-0.05, 3.95])


def test_masked_pixels_are_left_blank():
    frame, posterior = made()
    shown = panels(figure_2d(frame, posterior, MODEL))
    for title in ("measured", "residual"):
        values = np.ma.filled(np.ma.masked_invalid(shown[title].images[0].get_array()), np.nan)
        assert np.isnan(values[20]).all() and np.isfinite(values[19]).all()


def test_the_verdict_stands_there_with_its_reason(tmp_path):
    frame, posterior = made(Verdict.ALARM, "reduced chi-squared 9 exceeds 3: no draw fits")
    figure = figure_2d(frame, posterior, MODEL)
    words = " ".join(text.get_text() for text in figure.texts)
    assert "ALARM" in words and "no draw fits" in words
    path = save_figure(figure, tmp_path / "image.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("reason", ["", "one line", "many words that go on " * 20])
def test_nothing_is_drawn_over_the_title_and_scales_are_no_taller_than_pictures(reason):
    frame, posterior = made(Verdict.WARNING, reason)
    figure = figure_2d(frame, posterior, MODEL)
    assert head_room(figure) > 0
    heights = [axes.get_window_extent().height for axes in figure.axes]
    pictures = len(panels(figure))
    assert max(heights[pictures:]) <= max(heights[:pictures]) + 0.5


def test_a_curve_is_refused():
    frame, posterior = made()
    flat = DensityInfo("p(r)", "1/angstrom", INFO.axes[:1])
    object.__setattr__(posterior, "density", flat)
    with pytest.raises(FrameError, match="two axes"):
        figure_2d(frame, posterior, MODEL)


def test_the_live_view_shows_the_latest_image():
    frame, posterior = made()
    live = LiveReconstruction(interval_s=10.0)
    live.show(posterior, MODEL)
    live.close()
    assert (live.errors, live.received) == (0, 1)
    shown = panels(live.figure)
    np.testing.assert_allclose(shown["posterior mean"].images[0].get_array(), posterior.mean)
    np.testing.assert_allclose(shown["standard deviation"].images[0].get_array(), posterior.std)
    assert any("mean_phase" in axes.get_ylabel() for axes in live.figure.axes)


@pytest.mark.parametrize("mean_of_pixels", [True, False])
def test_thin_lines_of_a_large_image_are_in_its_picture(mean_of_pixels):
    image = np.zeros((1200, 1200))
    image[150::100] = 1.0
    figure = Figure(figsize=(4, 4), dpi=50)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    draw_image(axes, image, "", "", (0.0, 0.1), "gray", mean_of_pixels=mean_of_pixels)
    canvas.draw()
    inside = axes.get_window_extent()
    picture = np.asarray(canvas.buffer_rgba())[::-1, int(inside.x0 + inside.width / 2), 0]
    shown = picture[int(inside.y0) + 2 : int(inside.y1) - 2] > 100
    lines = int((shown[1:] & ~shown[:-1]).sum())
    assert (lines == 11) == mean_of_pixels, f"{lines} lines of 11"
