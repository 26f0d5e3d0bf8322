"""A RunEngine that runs a demo's plan, and the frames that come of its documents."""

import pytest

from nfphasing_bluesky.core import Frame
from nfphasing_bluesky.documents.router import FrameRouter
from tests.engine import running_engine


class Listener:
    """Keeps the frames of a run."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def run_started(self, start):
        pass

    def frame(self, frame):
        self.frames.append(frame)

    def run_stopped(self, raw_uid, exit_status, reason):
        pass


@pytest.fixture(scope="session")
def scanned():
    """Run the plan of a demo's subject; its frames."""

    def run(shown, *settings, **sources) -> list[Frame]:
        listener = Listener()
        with running_engine() as RE:
            RE.subscribe(FrameRouter(listener, *settings, **sources))
            RE(shown.plan(shown.detector), **shown.metadata)
        return listener.frames

    return run
