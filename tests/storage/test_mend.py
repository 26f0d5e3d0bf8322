"""A file that a killed writer left open."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from nfphasing_bluesky.storage.mend import lookup3, mend, mend_files

_WRITER = """
import os, sys
import numpy as np
from nfphasing_bluesky.documents.sinks import ArraySpec, FileSpec
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
arrays = tuple(ArraySpec(f"density_{n}", (4, 5), ("y", "x"), "<f4", "rad") for n in ("mean", "std"))
axes = {"y": (np.arange(4.0), "nm"), "x": (np.arange(5.0), "nm")}
file = DerivedFiles(sys.argv[1]).open(FileSpec("killed", arrays, axes))
block = {a.name: np.full((7, 4, 5), i, "f4") for i, a in enumerate(arrays, 1)}
print(file.append(block).uri, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(tmp_path):
    """URI and path of a file whose writer was killed after seven rows."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -9
    return done.stdout.strip(), tmp_path / "killed.h5"


def test_the_file_of_a_killed_writer_is_readable_again_with_every_row(killed, tmp_path):
    uri, path = killed
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path, "r")
    assert mend_files([("stream_resource", {"uri": uri})] * 2) == [path]
    with h5py.File(path, "r") as file:
        data = file["entry/density"]
        np.testing.assert_array_equal(data["mean"], np.full((7, 4, 5), 1, "f4"))
        np.testing.assert_array_equal(data["std"], np.full((7, 4, 5), 2, "f4"))
        assert data["mean_errors"] == data["std"] and data["mean"].attrs["units"] == "rad"
        assert file.attrs["NX_class"] == "NXroot" and data["mean"].chunks[0] >= 8
    assert not mend(path) and [p.name for p in tmp_path.iterdir()] == ["killed.h5"]


@pytest.mark.parametrize("where", [12, 44], ids=["an address", "the checksum"])
def test_a_damaged_file_is_left_as_it_was(killed, caplog, where):
    _, path = killed
    content = bytearray(path.read_bytes())
    content[where] ^= 0xFF
    path.write_bytes(content)
    assert not mend(path) and "damaged" in caplog.text
    assert path.read_bytes() == content


@pytest.mark.parametrize("text, value", [(b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551)])
def test_the_checksum_is_that_of_its_author(text, value):
    """Values of Bob Jenkins' own self-test, lookup3.c, driver5."""
    assert lookup3(text) == value


def test_what_is_no_local_hdf5_file_is_left_alone(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"not hdf5")
    uris = [f"file://localhost{tmp_path}/a.h5", f"file://localhost{tmp_path}/none.h5", "s3://x/y.h5"]
    assert mend_files([("stream_resource", {"uri": uri}) for uri in uris]) == []
