"""The film of the demo: its curves, and what a start document says of it."""

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.demo.detector import ReplayCurves
from nfphasing_bluesky.demo.films import KNOWN, THICKNESSES_ANGSTROM, growing_film, metadata
from nfphasing_bluesky.documents.router import FrameRouter


class Heard:
    def __init__(self):
        self.frames = []

    def run_started(self, start):
        pass

    def frame(self, frame):
        self.frames.append(frame)

    def run_stopped(self, raw_uid, exit_status, reason):
        pass


def test_fringes_are_those_of_the_thickness():
    for frame, thickness in zip(growing_film(), THICKNESSES_ANGSTROM, strict=True):
        q = frame.geometry.q_inv_angstrom
        # above the critical edges R q^4 swings with the film's period about a falling mean
        used = q > 0.12
        flat = np.log(frame.intensity[used] * q[used] ** 4)
        flat -= np.polyval(np.polyfit(q[used], flat, 2), q[used])
        tried = np.linspace(25, 200, 400)
        power = np.abs(np.exp(1j * tried[:, None] * q[used]) @ flat)
        assert tried[power.argmax()] == pytest.approx(thickness, abs=8)


def test_bounds_reach_the_frames_through_a_run_engine():
    heard = Heard()
    RE = RunEngine({})
    RE.subscribe(FrameRouter(heard, StreamSettings()))
    detector = ReplayCurves("reflectometer", growing_film()[:2], exposure_s=0.01)
    RE(bp.count([detector], num=2), **metadata())
    assert [frame.bounds for frame in heard.frames] == [dict(KNOWN)] * 2
