"""The science rooms run where there is no beamline stack, and the Tango server holds no torch."""

import subprocess
import sys

import pytest

BEAMLINE = (
    "bluesky",
    "databroker",
    "event_model",
    "h5py",
    "ophyd",
    "pyFAI",
    "tango",
    "tiled",
    "zmq",
    "matplotlib",
)
ROOMS = ("core", "physics", "flows", "modalities", "models", "training", "inference")


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    code = f"{statement}\nimport sys\nprint(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_science_rooms_load_nothing_of_the_beamline():
    assert loaded_by("\n".join(f"import nfphasing_bluesky.{room}" for room in ROOMS), BEAMLINE) == []


@pytest.mark.parametrize("module", ["tango_device.server", "tango_device.device"])
def test_the_tango_server_loads_no_torch(module):
    assert loaded_by(f"import {module}", ("torch", "scipy", "tiled")) == []
