"""Rows of whole numbers above a table of text say how many points follow, and are none."""

import numpy as np
import pytest

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.storage.readers import read_frames

Q = np.linspace(0.01, 0.3, 20)


def written(path, *first, rows=None):
    table = np.stack([Q, 5 * Q, Q], axis=1) if rows is None else rows
    lines = [" ".join(f"{value:.6f}" for value in row) for row in table]
    path.write_text("\n".join([*first, *lines]) + "\n")
    return path


@pytest.mark.parametrize("first", ["20", "20 3", "20 0 0", "20 1 1", "  20, 3, 1", "1 20 3"])
def test_a_count_of_points_is_no_point(tmp_path, caplog, first):
    (frame,) = read_frames(written(tmp_path / "curve.dat", "a sample of 3 rows", first))
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, Q, atol=1e-6)
    assert len(caplog.records) == (len(first.replace(",", " ").split()) == 3)
    assert all("line 2" in r.getMessage() and "no point" in r.getMessage() for r in caplog.records)


def test_a_first_point_in_whole_numbers_is_one(tmp_path):
    rows = np.stack([0.01 + Q, 5 * Q, Q], axis=1)
    (frame,) = read_frames(written(tmp_path / "curve.dat", "0 1 1", rows=rows))
    assert frame.intensity.size == 21 and frame.geometry.q_inv_angstrom[0] == 0


def test_tables_of_whole_numbers_and_falling_ones_are_not_touched(tmp_path):
    whole = tmp_path / "whole.dat"
    np.savetxt(whole, [[9, 4, 1], [2, 5, 1], [3, 6, 1]], fmt="%d")
    with pytest.raises(GeometryError, match="not increasing"):
        read_frames(whole, q_unit="1/nm")
    rows = np.stack([Q[::-1], 5 * Q, Q], axis=1)
    with pytest.raises(GeometryError, match=r"q\[0\]=1, then"):
        read_frames(written(tmp_path / "falling.dat", "1 5 1", rows=rows))
