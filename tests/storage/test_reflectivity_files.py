"""Reflectivity files: ORSO's, columns of Qz, and angles."""

import numpy as np
import pytest

from nfphasing_bluesky.core import FrameError, GeometryError, StorageError
from nfphasing_bluesky.storage.readers import read_frames

HEADER = """# # ORSO reflectivity data file | 1.2 standard | YAML encoding | https://www.reflectometry.org/
# data_source:
#   owner: {{name: A. Beamline, affiliation: Somewhere}}
#   experiment: {{title: films, instrument: D0, start_date: 2026-11-01T10:00:00, probe: x-ray}}
#   sample: {{name: film}}
#   measurement:
#     instrument_settings:
#       incident_angle: {{magnitude: null}}
#       wavelength: {{magnitude: 1.54, unit: angstrom}}
#     data_files: []
# reduction:
#   software: {{name: test}}
# data_set: {number}
# columns:
# - {{name: Qz, unit: {unit}, physical_quantity: normal_wavevector_transfer}}
# - {{name: {second}, physical_quantity: reflectivity}}
# - {{error_of: R, error_type: uncertainty, value_is: sigma}}
# - {{error_of: Qz, error_type: resolution, value_is: {width}}}
"""
TABLE = np.column_stack(
    [np.linspace(0.01, 0.3, 40), np.geomspace(1, 1e-6, 40), np.geomspace(1e-2, 1e-7, 40), np.full(40, 2e-3)]
)


def rows() -> str:
    return "\n".join("  ".join(f"{v:.9e}" for v in row) for row in TABLE) + "\n"


def orso(unit: str = "1/angstrom", width: str = "sigma", second: str = "R") -> str:
    return HEADER.format(number=0, unit=unit, width=width, second=second) + rows()


@pytest.mark.parametrize("name", ["film.ort", "film.dat"])
def test_an_orso_file_is_one_by_its_name_or_its_first_line(tmp_path, name):
    (tmp_path / name).write_text(orso())
    (frame,) = read_frames(tmp_path / name)
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, TABLE[:, 0])
    np.testing.assert_allclose(frame.intensity, TABLE[:, 1])
    np.testing.assert_allclose(frame.sigma, TABLE[:, 2])
    np.testing.assert_allclose(frame.geometry.dq_inv_angstrom, 2e-3)


def test_units_and_widths_are_converted(tmp_path):
    (tmp_path / "film.ort").write_text(orso("1/nm", "FWHM"))
    (frame,) = read_frames(tmp_path / "film.ort")
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, 0.1 * TABLE[:, 0])
    np.testing.assert_allclose(frame.geometry.dq_inv_angstrom, 2e-4 / 2.354820045, rtol=1e-8)


def test_every_data_set_is_a_frame(tmp_path):
    text = orso() + "# data_set: 1\n" + rows()
    (tmp_path / "two.ort").write_text(text)
    assert [frame.origin.seq_num for frame in read_frames(tmp_path / "two.ort")] == [1, 2]


def test_a_damaged_orso_file_says_so(tmp_path):
    (tmp_path / "film.ort").write_text(orso()[:600])
    with pytest.raises(StorageError, match="copy it again"):
        read_frames(tmp_path / "film.ort")


def test_columns_named_qz_carry_their_unit(tmp_path):
    text = "#qz(nm-1)\t#refl\t#err_refl\n" + "\n".join(f"{10 * q} {r} {s}" for q, r, s, _ in TABLE)
    (tmp_path / "water.dat").write_text(text)
    (frame,) = read_frames(tmp_path / "water.dat")
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, TABLE[:, 0])


def angles(tmp_path):
    two_theta = np.linspace(0.0, 4.0, 41)
    text = "# two theta, counts, sigma\n" + "\n".join(f"{t} {1e6 - t} {1e3}" for t in two_theta)
    (tmp_path / "xrr.txt").write_text(text)
    return two_theta


@pytest.mark.parametrize(("unit", "share"), [("two_theta_degree", 0.5), ("theta_degree", 1.0)])
def test_angles_become_q_with_the_wavelength(tmp_path, unit, share):
    column = angles(tmp_path)
    (frame,) = read_frames(tmp_path / "xrr.txt", q_unit=unit, wavelength_angstrom=1.5406)
    expected = 4 * np.pi / 1.5406 * np.sin(np.radians(share * column[1:]))
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, expected)
    assert frame.intensity.size == 40


def test_angles_without_a_wavelength_are_refused(tmp_path):
    angles(tmp_path)
    with pytest.raises(GeometryError, match="wavelength_angstrom=1.5406"):
        read_frames(tmp_path / "xrr.txt", q_unit="two_theta_degree")


@pytest.mark.parametrize(
    "heading", ["2theta(deg) counts sigma", "# Two-Theta, I, dI", "tth;I;dI", "theta R dR"]
)
def test_a_column_that_is_headed_as_an_angle_is_no_q(tmp_path, heading):
    rows = "\n".join(f"{t} {1e6 - t} {1e3}" for t in np.linspace(0.1, 0.9, 40))
    (tmp_path / "xrr.txt").write_text(f"{heading}\n{rows}")
    with pytest.raises(GeometryError, match=r"angle.*two_theta_degree.*wavelength_angstrom"):
        read_frames(tmp_path / "xrr.txt")
    (frame,) = read_frames(tmp_path / "xrr.txt", q_unit="two_theta_degree", wavelength_angstrom=1.54)
    assert frame.intensity.size == 40
    assert len(read_frames(tmp_path / "xrr.txt", q_unit="1/angstrom")) == 1


def test_headers_that_only_speak_of_angles_are_no_columns(tmp_path):
    (tmp_path / "saxs.dat").write_text("# 2theta range 0.1 to 4\n# q I sigma\n" + rows())
    assert len(read_frames(tmp_path / "saxs.dat")) == 1


def test_numbers_beyond_any_q_may_be_angles(tmp_path):
    angles(tmp_path)
    (tmp_path / "bare.txt").write_text("\n".join(f"{t} {1e6 - t} {1e3}" for t in np.linspace(0.1, 9, 40)))
    with pytest.raises(GeometryError, match="two_theta_degree"):
        read_frames(tmp_path / "bare.txt")


def test_a_part_of_a_curve_with_fewer_points(tmp_path):
    """A fine scan of a lab goes into what a model has learnt: its middle, points joined."""
    (tmp_path / "film.ort").write_text(orso())
    (frame,) = read_frames(tmp_path / "film.ort", q_range=(0.05, 0.2), join=4)
    kept = TABLE[(TABLE[:, 0] >= 0.05) & (TABLE[:, 0] <= 0.2)]
    count = len(kept) // 4
    groups = np.split(kept, 4 * np.arange(1, count))
    np.testing.assert_allclose(frame.geometry.q_inv_angstrom, [g[:, 0].mean() for g in groups])
    np.testing.assert_allclose(frame.intensity, [g[:, 1].mean() for g in groups])
    np.testing.assert_allclose(frame.sigma, [np.sqrt((g[:, 2] ** 2).sum()) / len(g) for g in groups])
    expected = [np.sqrt(g[:, 0].var() + 4e-6) for g in groups]
    np.testing.assert_allclose(frame.geometry.dq_inv_angstrom, expected)
    with pytest.raises(FrameError, match=r"0 points between q = 3 and 5.*goes from 0.01 to 0.3"):
        read_frames(tmp_path / "film.ort", q_range=(3, 5))
    with pytest.raises(FrameError, match="join=30"):
        read_frames(tmp_path / "film.ort", join=30)


def test_a_resolution_that_is_not_taken_is_said(tmp_path, caplog):
    (tmp_path / "r.dat").write_text(rows())
    (frame,) = read_frames(tmp_path / "r.dat")
    assert frame.geometry.dq_inv_angstrom is None
    assert "resolution" in caplog.text and "columns=(0, 1, 2, 3)" in caplog.text
    caplog.clear()
    (frame,) = read_frames(tmp_path / "r.dat", columns=(0, 1, 2, 3))
    np.testing.assert_allclose(frame.geometry.dq_inv_angstrom, 2e-3)
    assert not caplog.text


def test_a_reflectivity_without_errors_needs_some(tmp_path):
    (tmp_path / "r.dat").write_text("\n".join(f"{q} {r}" for q, r, *_ in TABLE))
    with pytest.raises(FrameError, match="relative_sigma"):
        read_frames(tmp_path / "r.dat")
