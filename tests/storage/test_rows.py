"""Rows that go past HDF5's cache are where HDF5 looks for them, whatever blocks they come in."""

import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfphasing_bluesky.storage.rows import ChunkedRows, Trail, growing_dataset


@pytest.fixture
def file(tmp_path):
    """Make a dataset that grows, the rows that go into it, and a reader beside it."""
    opened = []

    def make(shape, dtype, chunk):
        path = tmp_path / f"{len(opened)}.h5"
        writer = h5py.File(path, "w", libver="latest")
        dataset = growing_dataset(writer, "x", shape, dtype, chunk)
        writer.swmr_mode = True
        reader = h5py.File(path, "r", libver="latest", swmr=True)
        opened.append((reader, writer))
        return dataset, ChunkedRows(dataset), reader["x"], path

    yield make
    for reader, writer in opened:
        reader.close()
        writer.close()


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.integers(1, 7),
    st.sampled_from([(), (3,), (2, 5)]),
    st.sampled_from(["<f4", "<f8"]),
)
@settings(max_examples=40)
def test_blocks_of_any_size_are_read_back_as_they_come(file, blocks, chunk, shape, dtype):
    dataset, rows, reader, path = file(shape, dtype, chunk)
    written = np.empty((0, *shape), dtype)
    rng = np.random.default_rng(sum(blocks))
    for count in blocks:
        block = rng.normal(size=(count, *shape))
        written = np.concatenate([written, block.astype(dtype)])
        rows.append(block)
        dataset.flush()
        reader.id.refresh()
        np.testing.assert_array_equal(reader[:], written)
    dataset.file.close()
    with h5py.File(path) as closed:
        np.testing.assert_array_equal(closed["x"][:], written)


def test_rows_that_cannot_be_written_leave_the_dataset_as_it_was(file, monkeypatch):
    dataset, rows, reader, _ = file((4,), "<f4", 8)
    rows.append(np.ones((3, 4)))

    def full(rows):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "_put", full)
        with pytest.raises(OSError, match="no space"):
            rows.append(np.full((20, 4), 2.0))
    assert dataset.shape == (3, 4)
    rows.append(np.full((9, 4), 3.0))
    dataset.flush()
    reader.id.refresh()
    np.testing.assert_array_equal(reader[:, 0], [1] * 3 + [3] * 9)


def test_a_chunk_is_not_written_before_its_rows(file):
    """A block of a few rows costs no more bytes than these have; what is beyond them is never read."""
    dataset, rows, reader, path = file((1000,), "<f8", 64)
    rows.append(np.ones((2, 1000)))
    dataset.flush()
    reader.id.refresh()
    assert reader.shape == (2, 1000) and (reader[:] == 1).all()
    assert os.stat(path).st_blocks * 512 < 10 * 8000 < 64 * 8000


def test_what_the_system_may_forget_is_still_in_the_file(tmp_path):
    path, stretch = tmp_path / "long", os.urandom(2**16)
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    trail = Trail(handle, kept_bytes=2**16)
    try:
        for number in range(20):
            os.pwrite(handle, stretch, number * len(stretch))
            trail.grown_to((number + 1) * len(stretch))
    finally:
        os.close(handle)
    assert path.read_bytes() == 20 * stretch
