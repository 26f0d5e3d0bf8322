"""An embedded catalog for the room, and derived runs to put into it."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.documents.derived import DerivedRun
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog

_path = Path(__file__).parent.parent / "documents" / "conftest.py"
_spec = importlib.util.spec_from_file_location("nfphasing_test_documents", _path)
raw_documents = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = raw_documents
_spec.loader.exec_module(raw_documents)


@pytest.fixture(scope="session")
def catalog_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("catalog")


@pytest.fixture(scope="session")
def catalog(catalog_folder):
    """One embedded catalog for every test of the room: opening one takes seconds."""
    client = embedded_catalog(catalog_folder)
    yield client
    close_catalog(client)


@pytest.fixture
def raw_run():
    return raw_documents.RawRun


@pytest.fixture
def reconstructor():
    return raw_documents.GuinierReconstructor()


class Experiment:
    """A raw run of curves and its reconstructions."""

    def __init__(self, n_frames: int = 3, **metadata) -> None:
        self.raw = raw_documents.RawRun(**metadata)
        for index in range(n_frames):
            self.raw.curve(20.0 + index % 40)
        self.raw.stop()
        heard = raw_documents.Heard()
        router = FrameRouter(heard, StreamSettings())
        for name, doc in self.raw.documents:
            router(name, doc)
        self.reconstructor = raw_documents.GuinierReconstructor()
        self.posteriors = self.reconstructor(heard.frames)
        self.start = self.raw.documents[0][1]

    def derive(self, sink, store, repeat: int = 1, exit_status: str = "success", **options) -> DerivedRun:
        run = DerivedRun(
            self.start, self.reconstructor.info, self.reconstructor.settings, sink, store, **options
        )
        for _ in range(repeat):
            run.add(self.posteriors)
        run.close(exit_status)
        return run

    def failing(self, reason: str = "masked"):
        from nfphasing_bluesky.core import Failure

        return Failure(replace(self.posteriors[0].origin, seq_num=99), reason)


@pytest.fixture(scope="session")
def experiment():
    return Experiment


@pytest.fixture
def examples(require) -> Path:
    """Folder of the example curves that sasdata ships."""
    found = importlib.util.find_spec("sasdata")
    require(found, "sasdata is not installed; install the extra 'test'")
    return Path(found.origin).parent / "example_data"
