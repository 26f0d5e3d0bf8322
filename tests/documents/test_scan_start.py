"""The first frames of a scan in documents: they wait for the probe and for what they say of the places."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.core.orientation import ORIENTATIONS
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.documents.scan_frames import Beam
from tests.simulated_scan import SIDE, likeness, places, simulate

OPTICS = {"object_pixel_m": 2e-8, "centred": 1}


@pytest.fixture(scope="module")
def scan():
    return simulate()


class Feed:
    """Sends the events of a scan one by one."""

    def __init__(self, heard, raw_run, key_of, beam, **said):
        self.heard, self.run = heard, None
        keys = {"eiger": key_of((SIDE, SIDE)), "sy": key_of((), "px"), "sx": key_of((), "px")}
        said = {"geometry": OPTICS, "positions": ["sy", "sx"], **said}
        self.run = raw_run(keys, nfphasing=said)
        self.router = FrameRouter(heard, StreamSettings(data_key="eiger"), beam=beam)
        self.sent = 0

    def send(self, counts, where):
        for image, (row, column) in zip(counts, where, strict=True):
            self.run.event(eiger=np.asarray(image), sy=float(row), sx=float(column))
        self.flush()

    def stop(self):
        self.run.stop()
        self.flush()

    def flush(self):
        for name, doc in self.run.documents[self.sent :]:
            self.router(name, doc)
        self.sent = len(self.run.documents)

    @property
    def notes(self):
        return self.router.notes(self.router.open_runs[0])


@pytest.fixture
def feed(heard, raw_run, key_of):
    return lambda beam, **said: Feed(heard, raw_run, key_of, beam, **said)


def beam(scan, **changes):
    return Beam(scan.probe.numpy(), "probe.npz", **changes)


def shots(scan, first=0, last=None):
    exposures = scan.exposures
    return exposures.counts[first:last].numpy(), exposures.position[first:last].numpy()


def test_frames_wait_for_their_probe_and_none_is_lost(heard, feed, scan):
    sender = feed(Beam(None, "retrieve", probe_frames=40))
    counts, where = shots(scan)
    counts = counts.copy()
    counts[3] = 0
    sender.send(counts[:39], where[:39])
    assert not heard.frames and not heard.failures and not sender.notes
    sender.send(counts[39:41], where[39:41])
    assert [f.origin.seq_num for f in heard.frames] == [1, 2, 3, *range(5, 42)]
    (dark,) = heard.failures
    assert dark.origin.seq_num == 4 and "no photons" in dark.reason
    assert "retrieved from the first 39 frames with light" in sender.notes["probe"]
    assert sender.notes["orientation"] == "frames and positions agree"
    probe = heard.frames[0].geometry.probe
    assert likeness(torch.from_numpy(probe[0]), scan.probe[0]) > 0.98
    sender.send(counts[41:], where[41:])
    assert len(heard.frames) == 48 and heard.frames[-1].geometry.probe is probe
    sender.stop()
    assert len(heard.frames) == 48 and len(heard.failures) == 1


def test_a_run_that_ends_before_uses_what_there_is(heard, feed, scan):
    sender = feed(Beam(None, "retrieve", probe_frames=100))
    sender.send(*shots(scan))
    assert not heard.frames
    sender.stop()
    assert len(heard.frames) == 49


def test_a_run_that_is_too_short_fails_its_frames_with_the_reason(heard, feed, scan):
    sender = feed(Beam(None, "retrieve"))
    sender.send(*shots(scan, 0, 5))
    sender.stop()
    assert not heard.frames and [f.origin.seq_num for f in heard.failures] == [1, 2, 3, 4, 5]
    assert all("expected 9 or more" in f.reason for f in heard.failures)


def test_a_scan_that_lies_as_it_says(heard, feed, scan):
    sender = feed(beam(scan, check_frames=14))
    sender.send(*shots(scan, 0, 13))
    assert not heard.frames
    sender.send(*shots(scan, 13))
    assert len(heard.frames) == 49 and not any(f.doubt for f in heard.frames)
    assert sender.notes == {"probe": "probe.npz", "orientation": "frames and positions agree"}


def test_turned_frames_have_a_doubt_from_the_first_on(heard, feed, scan):
    counts, where = shots(scan)
    sender = feed(beam(scan, check_frames=14))
    sender.send(ORIENTATIONS["transpose"].image(counts, centre=SIDE // 2), where)
    assert len(heard.frames) == 49 and all("--orientation transpose" in f.doubt for f in heard.frames)
    assert "do not go together" in sender.notes["orientation"]


@pytest.mark.parametrize("in_document", [True, False])
def test_turned_back(heard, feed, scan, in_document):
    counts, where = shots(scan)
    turned = ORIENTATIONS["rotate-90"].image(counts, centre=SIDE // 2)
    said = {"orientation": "rotate-270", "positions_sign": [-1, 1], "positions_order": "xy"}
    given = {"orientation": "rotate-270", "signs": (-1.0, 1.0), "order": "xy"}
    sender = feed(
        beam(scan, check_frames=14, **({} if in_document else given)), **(said if in_document else {})
    )
    sender.send(turned, where[:, ::-1] * [1, -1])
    assert len(heard.frames) == 49 and not any(f.doubt for f in heard.frames)
    np.testing.assert_allclose([f.place for f in heard.frames], where)
    np.testing.assert_array_equal(heard.frames[5].intensity, counts[5])


def test_one_line_leaves_it_open_and_the_next_ones_tell(heard, feed, scan):
    where = places(rows=7, columns=7)
    where[:7, 0] = where[0, 0]
    lines = simulate(where=where)
    counts = lines.exposures.counts.numpy()
    sender = feed(beam(scan, check_frames=7))
    # the rows run the wrong way
    sender.send(counts, where.numpy() * [-1, 1])
    doubts = [bool(f.doubt) for f in heard.frames]
    assert doubts == [False] * 27 + [True] * 22
    assert "--positions-sign=-1,1" in heard.frames[-1].doubt
    assert "--positions-sign=-1,1" in sender.notes["orientation"]


def test_without_a_check_nothing_waits(heard, feed, scan):
    sender = feed(beam(scan, check_frames=0))
    sender.send(*shots(scan, 0, 1))
    assert len(heard.frames) == 1 and sender.notes["orientation"] == "not looked at"


def test_an_unknown_orientation_fails_the_frames(heard, feed, scan):
    sender = feed(beam(scan), orientation="upside-down")
    sender.send(*shots(scan, 0, 2))
    assert len(heard.failures) == 2 and "expected one of as-is" in heard.failures[0].reason


def test_a_gap_that_nobody_masked(heard, feed, scan):
    counts, where = shots(scan)
    counts = counts.copy()
    counts[:, 22:25] = 0
    sender = feed(beam(scan, check_frames=20))
    sender.send(counts, where)
    assert len(heard.frames) == 49 and not any(f.doubt for f in heard.frames)
    assert all(f.mask[22:25].all() and f.usable.sum() == 48 * 45 for f in heard.frames)


def test_turned_frames_without_a_probe(heard, feed, scan):
    counts, where = shots(scan)
    sender = feed(Beam(None, "retrieve", probe_frames=49))
    sender.send(ORIENTATIONS["transpose"].image(counts, centre=SIDE // 2), where)
    # half a turn is a twin that makes the same frames
    assert len(heard.frames) == 49
    for name in ("transpose", "antitranspose"):
        assert all(f"--orientation {name}," in f.doubt for f in heard.frames)
