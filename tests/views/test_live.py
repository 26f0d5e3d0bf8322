"""The live view, fed by posteriors and real derived documents: it never disturbs its feeder."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nfphasing_bluesky.core import Failure, Origin, ReconstructionSettings, Verdict
from nfphasing_bluesky.documents.derived import DerivedRun
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
from nfphasing_bluesky.views.live import LiveReconstruction
from nfphasing_bluesky.views.live_state import LiveState

RAW_START = {"uid": "0123456789-raw", "time": 0.0, "scan_id": 17}


def shifted(posterior, number, verdict=Verdict.VALID):
    """The posterior of another frame of a scan, told apart by its Rg."""
    return replace(
        posterior,
        parameters={**posterior.parameters, "rg_angstrom": posterior.parameters["rg_angstrom"] + number},
        mean=posterior.mean * number,
        trust=replace(
            posterior.trust, verdict=verdict, reason="" if verdict is Verdict.VALID else "a reason"
        ),
        origin=Origin("saxs_image", "0123456789-raw", "primary", "saxs_image", number, 1.0),
    )


@pytest.fixture
def view():
    made = []

    def make(**options):
        made.append(LiveReconstruction(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def curves(figure, axes=0):
    return {line.get_label(): line for line in figure.axes[axes].lines}


def texts(figure):
    return " ".join([figure.get_suptitle(), *(text.get_text() for text in figure.texts)])


def test_a_burst_is_drawn_a_few_times_and_ends_with_the_last_frame(conalbumin, view):
    _, posterior, info = conalbumin
    drawers = []
    live = view(interval_s=0.3, on_draw=lambda figure: drawers.append(threading.get_ident()))
    started = time.perf_counter()
    for number in range(1, 301):
        live.show(shifted(posterior, number), info)
        time.sleep(0.002)
    elapsed = time.perf_counter() - started
    assert threading.get_ident() not in drawers
    live.close()
    assert live.errors == 0 and live.received == 300
    assert 1 <= live.drawn <= elapsed / 0.3 + 3
    np.testing.assert_allclose(curves(live.figure)["mean"].get_ydata(), posterior.mean * 300)
    assert "300 frames" in texts(live.figure) and "VALID" in texts(live.figure)


def derived(documents, tmp_path, info, blocks):
    """Compose a real derived run, its arrays in real files."""
    run = DerivedRun(
        RAW_START,
        info,
        ReconstructionSettings(),
        lambda name, doc: documents(name, doc),
        DerivedFiles(tmp_path),
    )
    for block in blocks:
        run.add(block)
    return run


def test_follows_the_documents_of_a_derived_run(conalbumin, view, tmp_path):
    _, posterior, info = conalbumin
    live = view(interval_s=0.05, path=tmp_path / "live.png")
    blocks = [
        [shifted(posterior, 1), shifted(posterior, 2, Verdict.WARNING)],
        [
            shifted(posterior, 3),
            Failure(Origin("saxs_image", seq_num=4), "all masked"),
            shifted(posterior, 5),
        ],
    ]
    run = derived(live, tmp_path, info, blocks)
    live.close()
    run.close()
    assert live.errors == 0 and live.received == 5
    np.testing.assert_allclose(curves(live.figure)["mean"].get_ydata(), posterior.mean * 5)
    density, rg, i0 = live.figure.axes
    assert density.get_xlabel() == "r (Å)" and density.get_ylabel() == "p(r) (Å⁻¹)"
    assert rg.get_ylabel() == "rg (Å)" and i0.get_ylabel() == "i0"
    shown = np.concatenate([line.get_xdata() for line in rg.lines])
    assert sorted(shown) == [1, 2, 3, 4, 5]
    assert "scan 17 (01234567)   ·   indirect-transform   ·   5 frames" in texts(live.figure)
    assert (tmp_path / "live.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*.part"))


def test_a_failed_last_frame_says_why_and_shows_no_density(conalbumin, view, tmp_path):
    _, posterior, info = conalbumin
    live = view(interval_s=0.05)
    blocks = [[shifted(posterior, 1), Failure(Origin("saxs_image", seq_num=2), "all masked")]]
    derived(live, tmp_path, info, blocks).close()
    live.close()
    assert "ALARM" in texts(live.figure) and "all masked" in texts(live.figure)
    assert [text.get_text() for text in live.figure.axes[0].texts] == ["no density for this frame"]


def test_between_a_block_and_its_events_the_block_before_is_shown(conalbumin, tmp_path):
    _, posterior, info = conalbumin
    state = LiveState()
    pages = []

    def hold_back_the_second_page(name, doc):
        pages.extend([doc] if name == "event_page" else [])
        if name != "event_page" or len(pages) == 1:
            state.take_document(name, doc)

    run = derived(
        hold_back_the_second_page, tmp_path, info, [[shifted(posterior, 1)], [shifted(posterior, 2)]]
    )
    np.testing.assert_allclose(state.snapshot().load_density().mean, posterior.mean)
    state.take_document("event_page", pages[1])
    np.testing.assert_allclose(state.snapshot().load_density().mean, posterior.mean * 2)
    run.close()


def test_a_new_run_begins_with_an_empty_view_and_raw_runs_are_ignored(conalbumin, view, tmp_path):
    _, posterior, info = conalbumin
    live = view(interval_s=10)
    derived(live, tmp_path, info, [[shifted(posterior, 1), shifted(posterior, 2)]]).close()
    assert live.received == 2
    for name, doc in (("start", RAW_START), ("event", {"descriptor": "other", "data": {}}), ("stop", {})):
        live(name, doc)
    assert live.received == 2
    derived(live, tmp_path, info, [[shifted(posterior, 1)]]).close()
    assert live.received == 1 and live.errors == 0


def test_nothing_that_goes_wrong_reaches_the_feeder(conalbumin, view, caplog):
    _, posterior, info = conalbumin
    asked = threading.Event()

    def broken_display(_):
        asked.set()
        raise RuntimeError("the display is gone")

    live = view(interval_s=0.01, on_draw=broken_display)
    live("descriptor", {"name": "density"})
    live("stream_datum", None)
    live.show(None, info)
    assert live.errors == 3
    live.show(posterior, info)
    assert asked.wait(240)
    live.close()
    assert live.errors >= 4 and live.received == 1
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


class EventLoop:
    """Stands for a GUI toolkit's: fires when told."""

    def __init__(self):
        self.callbacks, self.running = [], False

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def start(self):
        self.running = True

    def stop(self):
        self.running = False

    def fire(self):
        for callback in self.callbacks:
            callback()


class InteractiveCanvas(FigureCanvasAgg):
    """A canvas that claims an event loop, as those of Qt and Tk do."""

    required_interactive_framework = "test"

    def new_timer(self, interval=None, callbacks=None):
        self.loop, self.interval = EventLoop(), interval
        return self.loop


def test_an_interactive_figure_is_drawn_by_its_own_event_loop_only(conalbumin):
    _, posterior, info = conalbumin
    figure = Figure()
    canvas = InteractiveCanvas(figure)
    threads = set(threading.enumerate())
    live = LiveReconstruction(figure, interval_s=0.25)
    assert set(threading.enumerate()) <= threads and canvas.loop.running and canvas.interval == 250
    live.show(posterior, info)
    assert live.drawn == 0
    canvas.loop.fire()
    canvas.loop.fire()
    assert live.drawn == 1, "nothing new, nothing drawn"
    live.close()
    assert not canvas.loop.running
