import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from nfphasing_bluesky.core import ModelError, TransportError
from nfphasing_bluesky.demo import run_demo, tango_services
from nfphasing_bluesky.demo.curves import SOURCES
from nfphasing_bluesky.demo.worker import announcing, read_addresses
from nfphasing_bluesky.streaming.child import is_alive

pytestmark = pytest.mark.timeout(600)


def children():
    """Processes whose parent is this one, and that live."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (entry / "stat").exists():
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[1] == str(os.getpid()) and is_alive(int(entry.name)):
                found.add(int(entry.name))
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The result of one demo on sasdata's curves, what it reported, and the processes it left."""
    before, lines = children(), []
    folder = tmp_path_factory.mktemp("demo")
    result = run_demo(folder / "out", lines.append, shared_data=folder / "none")
    return result, "\n".join(lines), children() - before


@pytest.mark.slow
def test_every_measured_curve_is_reconstructed_twice_and_the_same_both_times(demo):
    result, _, _ = demo
    assert [f.sample for f in result.frames] == 2 * [s.label for s in SOURCES]
    assert [f.seq_num for f in result.frames] == list(range(1, 9))
    for first, second in zip(result.frames[:4], result.frames[4:], strict=True):
        sizes = [f.parameters["rg_angstrom"] for f in (first, second)]
        assert abs(sizes[0][0] - sizes[1][0]) < 3 * (sizes[0][1] + sizes[1][1])
        assert np.isfinite(first.mean).all() and first.std.max() > 0
    ledger = result.ledger
    assert (ledger["received"], ledger["reconstructed"]) == (8, 8)
    assert (ledger["dropped"], ledger["failed"]) == (0, 0)


@pytest.mark.slow
def test_tango_served_the_last_frame(demo):
    result, _, _ = demo
    assert result.tango.seq_num == 8
    np.testing.assert_allclose(result.tango.mean, result.frames[-1].mean)
    assert result.tango.verdict == result.frames[-1].verdict


@pytest.mark.slow
def test_it_says_where_everything_is_and_draws_each_curve(demo):
    result, report, _ = demo
    assert len(result.figures) == len(SOURCES)
    for path in result.figures:
        assert path.read_bytes().startswith(b"\x89PNG") and str(path) in report
    assert (result.catalog / "catalog.db").is_file() and str(result.catalog) in report
    assert "8 received, 8 reconstructed" in report and result.derived_uid in report


@pytest.mark.slow
def test_images_go_the_same_way(tmp_path):
    """The cheapest of the image demos, 35 s of processor time; the scan takes 41 s, the patterns 46 s."""
    before, lines = children(), []
    result = run_demo(tmp_path / "out", lines.append, modality="holography", shared_data=tmp_path / "none")
    names = [f.sample.lower() for f in result.frames]
    assert names == [path.stem.replace("-", " ") for path in result.figures]
    for frame in result.frames:
        assert frame.mean.shape == frame.std.shape and frame.mean.ndim == 2
        assert np.isfinite(frame.mean).all() and frame.std.min() > 0
    np.testing.assert_allclose(result.tango.mean, result.frames[-1].mean)
    assert result.ledger["received"] == result.ledger["reconstructed"] == len(result.frames) > 1
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in result.figures)
    assert "catalog and Tango agree on frame" in "\n".join(lines)
    assert not children() - before


@pytest.mark.slow
def test_nothing_is_left_running(demo):
    _, _, left = demo
    assert not left
    # the threads of torch's parts, nfphasing_0 and on, stay by design (`inference/threads.py`)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("nfphasing-")]


@pytest.mark.slow
def test_a_model_that_does_not_exist_ends_it_with_its_name(tmp_path):
    before = children()
    with pytest.raises(ModelError, match="nonsense"):
        run_demo(tmp_path / "out", logging.getLogger(__name__).info, model="nonsense")
    assert not children() - before


def test_a_database_that_ends_at_once_is_an_error_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(tango_services.sys, "executable", "/bin/false")
    before = children()
    with (
        pytest.raises(TransportError, match="the Tango database ended with status 1; its log .*database.log"),
        tango_services.tango_database(tmp_path),
    ):
        pass
    assert not children() - before


def test_a_worker_says_where_it_is(tmp_path):
    assert read_addresses(tmp_path / "none.json") is None
    assert announcing(tmp_path / "a.json")[1:] == (
        "-m",
        "nfphasing_bluesky.demo.worker",
        str(tmp_path / "a.json"),
    )
    path = tmp_path / "a.json"
    path.write_text('{"results": "ipc:///r", "control": "ipc:///c"}')
    assert read_addresses(path) == ("ipc:///r", "ipc:///c")
    path.write_text('{"results": 1}')
    with pytest.raises(OSError, match="not the addresses of a worker"):
        read_addresses(path)
