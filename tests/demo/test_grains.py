"""The demo's grains: their documents, what the model makes of one, and its answers side by side."""

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Frame,
    Posterior,
    ReconstructionSettings,
    StreamSettings,
    TransportError,
    Verdict,
)
from nfphasing_bluesky.demo import subjects
from nfphasing_bluesky.demo.grains import BACKGROUND, BEAM_PX, GEOMETRY, GRAINS, grain_pixels
from nfphasing_bluesky.demo.readback import FrameLine, check_same
from nfphasing_bluesky.demo.table import results_table
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.views.images import figure_2d
from tests.demo.conftest import Listener
from tests.demo.test_table import LEDGER, line


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Frame]:
    shown = subjects.subject("cdi", tmp_path_factory.mktemp("grains"))
    heard = Listener()
    RE = RunEngine({})
    RE.subscribe(FrameRouter(heard, StreamSettings(data_key=shown.data_key)))
    RE(bp.count([shown.detector], num=shown.exposures), **shown.metadata)
    return heard.frames


def test_documents_say_geometry_and_beam_stop(frames):
    assert len(frames) == len(GRAINS)
    for frame in frames:
        assert frame.geometry == DetectorGeometry(**GEOMETRY)
        assert frame.mask[BEAM_PX] and frame.mask.sum() == 1
        corner = frame.intensity[: BEAM_PX[0] - 8]
        assert corner.mean() == pytest.approx(BACKGROUND, rel=0.1)


def test_a_grain_and_its_twin_stand_side_by_side(frames):
    frame = frames[0]
    reconstructor = Reconstructor.load("saxs2d-cdi", "cpu", ReconstructionSettings(n_samples=64))
    (posterior,) = reconstructor([frame])
    assert isinstance(posterior, Posterior) and posterior.trust.verdict is Verdict.VALID
    modes = posterior.modes()
    assert sum(mode.weight for mode in modes) == pytest.approx(1)
    u = grain_pixels()[0]
    # each is one of the answers, up to a shift, better than it is the other
    for wanted, other in ((u, u[::-1, ::-1]), (u[::-1, ::-1], u)):
        alike = [_alike(mode.mean, wanted) for mode in modes]
        best = modes[int(np.argmax(alike))]
        assert max(alike) > 0.95 > _alike(best.mean, other) and best.weight > 0.1
    background = posterior.summary()["background"]
    assert background.q025 < BACKGROUND < background.q975
    titles = [axes.get_title() for axes in figure_2d(frame, posterior, reconstructor.info).axes]
    assert sum(title.startswith("answer") for title in titles) == min(3, len(modes))
    assert "posterior mean" not in titles


def _alike(image, wanted) -> float:
    """Correlation after the best shift by a pixel."""
    shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    moved = [np.roll(image, shift, (0, 1)) for shift in shifts]
    return max(float(np.corrcoef(one.ravel(), wanted.ravel())[0, 1]) for one in moved)


def test_the_table_has_the_weights_of_the_answers_and_tango_must_agree_on_them():
    twins: FrameLine = line(modes=(0.52, 0.48))
    headings = {"rg_angstrom": "Rg, Å"}
    text = results_table([twins, line(4)], twins, LEDGER, "model", headings)
    assert "answers, %" in text and text.count("52 + 48") == 2
    assert "answers" not in results_table([line()], line(), LEDGER, "model", headings)
    check_same(twins, twins)
    with pytest.raises(TransportError, match="mode_weight"):
        check_same(twins, line(modes=(0.6, 0.4)))
