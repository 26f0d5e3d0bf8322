"""The array file: what other programs see in it, while it grows, and when its disk is full."""

import resource
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.documents.sinks import ArraySpec, FileSpec
from nfphasing_bluesky.storage.hdf5 import DerivedFiles, safe_name

R = np.linspace(0, 100, 48)
SPEC = FileSpec(
    "6f0a4e0e-2f1b-4a4e-9a53-0f8f6a9d7c11",
    tuple(ArraySpec(name, (48,), ("r",), "<f8", "1/angstrom") for name in ("density_mean", "density_std")),
    {"r": (R, "angstrom")},
    {"version": "0.1.0", "raw_uid": "raw-1", "quantity": "p(r)", "model": "guinier"},
)


def block(n: int, value: float = 1.0) -> dict[str, np.ndarray]:
    return {"density_mean": np.full((n, 48), value), "density_std": np.full((n, 48), value / 10)}


def test_rows_come_back_where_it_says(tmp_path):
    file = DerivedFiles(tmp_path / "derived").open(SPEC)
    first, second = file.append(block(5, 1.0)), file.append(block(3, 2.0))
    file.close()
    assert (first.start, first.stop, second.start, second.stop) == (0, 5, 5, 8)
    assert first.uri == second.uri and first.uri.startswith("file://localhost/")
    with h5py.File(first.uri.removeprefix("file://localhost")) as h5:
        mean = h5[first.datasets["density_mean"]]
        assert mean.shape == (8, 48) and mean.compression is None
        assert mean.chunks[0] >= 8 and mean.chunks[0] == first.chunk_rows
        np.testing.assert_array_equal(mean[:, 0], [1.0] * 5 + [2.0] * 3)
        np.testing.assert_allclose(h5[second.datasets["density_std"]][7], 0.2)


def test_nexus_programs_find_signal_errors_axes_and_units(tmp_path):
    file = DerivedFiles(tmp_path).open(SPEC)
    file.append(block(4))
    file.close()
    with h5py.File(tmp_path / f"{SPEC.uid}.h5") as h5:
        entry = h5[h5.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert (entry.attrs["NX_class"], data.attrs["NX_class"]) == ("NXentry", "NXdata")
        signal = data[data.attrs["signal"]]
        assert list(data.attrs["axes"]) == [".", "r"] and data.attrs["r_indices"] == 1
        assert data[f"{data.attrs['signal']}_errors"].shape == signal.shape
        assert signal.attrs["units"] == "1/angstrom" and data["r"].attrs["units"] == "angstrom"
        np.testing.assert_array_equal(data["r"], R)
        process = entry["process"]
        assert process.attrs["NX_class"] == "NXprocess"
        assert process["program"][()] == b"nfphasing-bluesky" and process["version"][()] == b"0.1.0"
        assert b'"raw_uid": "raw-1"' in process["settings/data"][()]


def test_silx_reads_it_as_nxdata(tmp_path, oracle):
    silx = oracle("silx.io.nxdata")
    file = DerivedFiles(tmp_path).open(SPEC)
    file.append(block(4, 3.0))
    file.close()
    with h5py.File(tmp_path / f"{SPEC.uid}.h5") as h5:
        data = silx.get_default(h5)
        assert data is not None and data.is_valid
        assert data.signal.name == "/entry/density/mean" and data.axes[1].name == "/entry/density/r"
        np.testing.assert_allclose(data.errors[()], 0.3)


def test_readable_while_it_grows(tmp_path):
    file = DerivedFiles(tmp_path).open(SPEC)
    written = file.append(block(2))
    with h5py.File(tmp_path / f"{SPEC.uid}.h5", "r", libver="latest", swmr=True) as reader:
        mean = reader[written.datasets["density_mean"]]
        assert len(mean) == 2
        file.append(block(6, 4.0))
        mean.id.refresh()
        assert len(mean) == 8 and mean[7, 0] == 4.0
    file.close()


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "/abs", "a/b", "", ".", "..", "x" * 500, "ü\x00\n", "a\\b"]
)
def test_a_hostile_uid_stays_in_its_folder(tmp_path, uid):
    folder = tmp_path / "derived"
    file = DerivedFiles(folder).open(replace(SPEC, uid=uid.replace("\x00", "")))
    file.append(block(1))
    file.close()
    (only,) = list(folder.iterdir())
    assert only.parent == folder and only.suffix == ".h5" and not only.name.startswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["derived"]


def test_safe_names_differ():
    assert len({safe_name(uid) for uid in ("a/b", "a_b", "a.b", "a b")}) == 4


def test_nothing_is_overwritten(tmp_path):
    for value in (1.0, 2.0):
        file = DerivedFiles(tmp_path).open(SPEC)
        file.append(block(1, value))
        file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{SPEC.uid}-2.h5", f"{SPEC.uid}.h5"]
    with h5py.File(tmp_path / f"{SPEC.uid}.h5") as h5:
        assert h5["entry/density/mean"][0, 0] == 1.0


def test_no_folder_at_all(tmp_path):
    (tmp_path / "file").write_text("in the way")
    file = DerivedFiles(tmp_path / "file").open(SPEC)
    with pytest.raises(StorageError, match="could not be written"):
        file.append(block(1))


def test_goes_on_in_the_fallback_when_the_folder_is_unusable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    file = DerivedFiles(tmp_path / "file", tmp_path / "other").open(SPEC)
    first, second = file.append(block(2)), file.append(block(2))
    file.close()
    assert first.uri == second.uri and "/other/" in first.uri


_FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[3])
from test_hdf5 import SPEC, block
from nfphasing_bluesky.storage.hdf5 import DerivedFiles
folder = Path(sys.argv[1])
file = DerivedFiles(folder / "main", (folder / "spare") if sys.argv[2] == "spare" else None).open(SPEC)
print(file.append(block(64, 1.0)).uri)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    for value in (2.0, 3.0, 4.0, 5.0):
        written = file.append(block(64, value))
        print(written.uri, written.start, written.stop, value)
except OSError as error:
    print(type(error).__name__, error)
file.close()
"""


@pytest.mark.parametrize("spare", ["spare", "none"])
def test_a_file_that_cannot_grow(tmp_path, spare):
    """The kernel refuses bytes past a limit, as a full disk does; rows before that stay readable."""
    command = [sys.executable, "-c", _FULL, str(tmp_path), spare, str(__file__).rsplit("/", 1)[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert "/main/" in lines[1]
    with h5py.File(next((tmp_path / "main").iterdir())) as h5:
        np.testing.assert_array_equal(h5["entry/density/mean"][:64], 1.0)
    if spare == "none":
        assert lines[-1].startswith("StorageError")
    else:
        spared = [line.split() for line in lines if "/spare/" in line and line.startswith("file:")]
        assert spared
        for uri, start, stop, value in spared:
            with h5py.File(uri.removeprefix("file://localhost")) as h5:
                np.testing.assert_array_equal(h5["entry/density/mean"][int(start) : int(stop)], float(value))
        assert len(list((tmp_path / "spare").iterdir())) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
