"""The demo's growing islands: their frames through a RunEngine, and what the model makes of two of them."""

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Frame,
    GrazingCutsGeometry,
    Posterior,
    ReconstructionSettings,
    StreamSettings,
)
from nfphasing_bluesky.demo import islands, subjects
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.views.trend import Trend, figure_trend


@pytest.fixture(scope="module")
def frames(tmp_path_factory, scanned) -> list[Frame]:
    """Cuts of all frames, without waiting for the film to grow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(islands, "EVERY_S", 0.0)
        seconds = np.arange(islands.FRAMES)
        patch.setattr(islands, "seconds_of", lambda frames: seconds[:frames] * 1.0)
        shown = subjects.subject("gisaxs", tmp_path_factory.mktemp("islands"))
        return scanned(shown, StreamSettings(data_key=shown.data_key), integrate=reduced)


def test_every_second_has_its_pair_of_cuts(frames):
    assert len(frames) == islands.FRAMES
    assert all(isinstance(frame.geometry, GrazingCutsGeometry) for frame in frames)
    # brighter as it grows, and the side maximum comes closer
    bands = np.array([frame.geometry.q_y_band_inv_angstrom for frame in frames])
    assert (np.diff(bands.mean(1)) <= 1e-9).all() and bands[-1].mean() < 0.75 * bands[0].mean()
    assert frames[-1].intensity.max() > 5 * frames[0].intensity.max()


def test_their_height_is_found(frames):
    reconstructor = Reconstructor.load("gisaxs1d", "cpu", ReconstructionSettings(n_samples=64))
    chosen = [2, 9]
    for index, posterior in zip(chosen, reconstructor([frames[i] for i in chosen]), strict=True):
        assert isinstance(posterior, Posterior) and posterior.trust.verdict.value == "VALID"
        height = posterior.summary()["height_angstrom"]
        truth = float(islands.height_angstrom(np.array(float(index))))
        assert height.q025 < truth < height.q975
        assert height.median == pytest.approx(truth, rel=0.15)
    # what fits make of rounding must not depend on who else is in the batch
    (alone,) = reconstructor([frames[chosen[1]]])
    np.testing.assert_allclose(alone.mean, posterior.mean, rtol=1e-5, atol=1e-6)


def test_a_trend_is_drawn_with_its_band_and_verdicts():
    seconds = np.arange(3.0)
    trend = Trend("height, Å", seconds, 50 + 10 * seconds, np.full(3, 2.0), ["VALID", "ALARM", "VALID"])
    figure = figure_trend(trend, "islands", (seconds, 51 + 10 * seconds))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "VALID" in names and "ALARM" in names and "WARNING" not in names and "simulated" in names
    assert axes.get_ylabel() == "height, Å"
