"""Readers: measured files of many makers, against the numbers in them and against sasdata's own loader."""

import logging
from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, DetectorGeometry, FrameError, GeometryError, StorageError
from nfphasing_bluesky.documents.integration import integrate
from nfphasing_bluesky.storage.readers import iter_frames, read_frames
from nfphasing_bluesky.storage.units import q_scale, q_scale_from_header

GEOMETRY = DetectorGeometry(
    wavelength_m=1e-10, distance_m=2.0, pixel_size_m=(172e-6, 172e-6), poni_m=(3e-3, 4e-3)
)


def q_of(frame):
    return frame.geometry.q_inv_angstrom


@pytest.mark.parametrize(
    ("name", "points", "columns"),
    [
        ("1d_data/apoferritin.txt", 395, "header of words and a row of integers"),
        ("1d_data/AUSANS_run3_2_no_buffer.ABS", 115, "NIST's six columns"),
        ("1d_data/Alumina_usaxs.csv", 112, "commas"),
        ("1d_data/APS_DND-CAT.TXT", 733, "tabs and no header"),
        ("1d_data/100nmSpheresNodQ.txt", 150, "quoted header"),
        ("1d_data/Ludox_silica.xml", 92, "canSAS 1.1"),
        ("1d_data/hSDS_D2O_2p0_percent.xml", 137, "negative intensities"),
        ("1d_data/10000A_sphere_dsm.xml", 75, "canSAS 1.0"),
        ("1d_data/33837rear_1D_1.75_16.5_NXcanSAS.h5", 66, "NXcanSAS with the old attributes"),
        ("1d_data/33837rear_1D_1.75_16.5_NXcanSAS_v3.h5", 66, "NXcanSAS"),
        ("1d_data/Lew_Sa3_DSM_QinA.h5", 490, "NXcanSAS by Irena"),
    ],
)
def test_agrees_with_sasdatas_own_loader(examples, oracle, name, points, columns):
    loader = oracle("sasdata.dataloader.loader").Loader()
    logging.disable(logging.CRITICAL)
    try:
        (theirs,) = loader.load(str(examples / name))
    finally:
        logging.disable(logging.NOTSET)
    (frame,) = read_frames(examples / name)
    assert frame.intensity.size == points
    np.testing.assert_allclose(q_of(frame), theirs.x, rtol=1e-9)
    np.testing.assert_allclose(frame.intensity, theirs.y, rtol=1e-9)
    np.testing.assert_allclose(frame.sigma, theirs.dy, rtol=1e-9)
    assert frame.origin.label == Path(name).name


def test_resolution_and_absolute_scale_come_along(examples):
    (ludox,) = read_frames(examples / "1d_data" / "Ludox_silica.xml")
    assert ludox.geometry.absolute
    assert ludox.geometry.dq_inv_angstrom[0] == pytest.approx(0.00144239)
    (counts,) = read_frames(examples / "1d_data" / "33837rear_1D_1.75_16.5_NXcanSAS_v3.h5")
    assert not counts.geometry.absolute and counts.geometry.dq_inv_angstrom is None


def test_a_file_of_many_entries_gives_a_frame_each(examples):
    frames = read_frames(examples / "1d_data" / "VTMA.h5")
    with h5py.File(examples / "1d_data" / "VTMA.h5") as file:
        assert len(frames) == len(file) == 240
        last = list(file)[-1]
        np.testing.assert_array_equal(frames[-1].intensity, file[f"{last}/{last}/I"][()])


def test_slit_smeared_and_stacked_reduced_data_are_refused(examples):
    with pytest.raises(FrameError, match="latex_smeared.xml: the curve is slit-smeared"):
        read_frames(examples / "1d_data" / "latex_smeared.xml")
    with pytest.raises(FrameError, match="expected curves"):
        read_frames(examples / "2d_data" / "BAM_2D.h5")


def test_glucose_isomerase_as_raw_wrote_it(shared_data):
    path = shared_data / "saxs1d" / "glucose_isomerase_chess_g1" / "glucose_isomerase.dat"
    (frame,) = read_frames(path)
    q, intensity, sigma = np.loadtxt(path).T
    np.testing.assert_array_equal(q_of(frame), q)
    np.testing.assert_array_equal(frame.intensity, intensity)
    np.testing.assert_array_equal(frame.sigma, sigma)


def test_chosen_columns_in_inverse_nanometres(shared_data):
    path = shared_data / "saxs1d" / "npsize4_bam" / "nPSize4.dat"
    (frame,) = read_frames(path, columns=(0, 3, 4), q_unit="1/nm")
    table = np.genfromtxt(path, delimiter=";")
    np.testing.assert_allclose(q_of(frame), table[:, 0] / 10)
    np.testing.assert_array_equal(frame.intensity, table[:, 3])
    np.testing.assert_array_equal(frame.sigma, table[:, 4])
    with pytest.raises(GeometryError, match="nPSize4.dat: q reaches 1.16 and the file names no unit"):
        read_frames(path, columns=(0, 3, 4))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


ROWS = "0.01 10 1\n0.02 9 0.9\n0.03 8 0.8\n"


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ("# q (1/nm)  I  sigma\n", 0.1),
        ("# q[nm^-1] I\n", 0.1),
        ("Q_nm^-1, I, sigma\n", 0.1),
        ("# Q (nm⁻¹)\n", 0.1),
        ("# q (1/A) I(1/cm) sigma; radius 5 nm\n", 1.0),
        ("# q_A^-1 I sigma\n", 1.0),
        ("# Q [Å⁻¹]\n", 1.0),
        ("# q in 1/Angstrom\n", 1.0),
        ("# equipment: 5 nm-1 grating\n", 1.0),
        ("# q, I(q), err\n# nm^-1, a.u., a.u.\n", 0.1),
        ("q I sigma\n[1/nm] [1/cm] [1/cm]\n", 0.1),
        ("Q;I;dI\nnm⁻¹;cm⁻¹;cm⁻¹\n", 0.1),
        ("q I err\n1/Å 1/cm 1/cm\n", 1.0),
        ("q I err\nnm 1/cm 1/cm\n", 1.0),
        ("", 1.0),
    ],
)
def test_unit_of_q_is_taken_from_the_header(tmp_path, header, factor):
    (frame,) = read_frames(write(tmp_path / "a.dat", header + ROWS))
    np.testing.assert_allclose(q_of(frame), factor * np.array([0.01, 0.02, 0.03]))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("# q dq I sigma\n", (0, 2, 3, 1)),
        ("# q(1/A) sigma I(1/cm) fit\n", (0, 2, 1)),
        ("Q_A^-1, I, dI, dQ\n", (0, 1, 2, 3)),
        ("# Q [1/A]\tI [1/cm]\tIdev [1/cm]\tQdev [1/A]\n", (0, 1, 2, 3)),
        ("# Index Q Intensity Error\n# some remark on the run\n", (1, 2, 3)),
        ("The 4 columns are | Q (1/A) | I(Q) (1/cm) | std. dev. I(Q) (1/cm) | sigmaQ |\n", (0, 1, 2, 3)),
        ("# q I fit sigma\n", (0, 1, 3)),
        ("# q I I sigma\n", (0, 1, 2)),
        ("# made of four columns\n", (0, 1, 2)),
        ("", (0, 1, 2)),
    ],
)
def test_columns_are_those_that_the_header_names(tmp_path, header, columns):
    table = np.column_stack([[0.01, 0.02, 0.03]] * 4) + np.array([0.0, 0.1, 0.2, 0.3])
    text = header + "\n".join(" ".join(map(str, row)) for row in table)
    (frame,) = read_frames(write(tmp_path / "a.dat", text))
    values = [q_of(frame), frame.intensity, frame.sigma, frame.geometry.dq_inv_angstrom]
    for value, column in zip(values, columns, strict=False):
        np.testing.assert_allclose(value, table[:, column])
    assert (values[3] is None) == (len(columns) == 3)


def test_columns_that_the_user_names_win_over_the_header(tmp_path):
    path = write(tmp_path / "a.dat", "# q sigma I\n" + ROWS)
    np.testing.assert_allclose(read_frames(path)[0].sigma, [10, 9, 8])
    np.testing.assert_allclose(read_frames(path, columns=(0, 1, 2))[0].sigma, [1, 0.9, 0.8])


@pytest.mark.parametrize("header", ["# s (nm^-1)  I(s)  err\n", "S I ERROR\n", "s, I, sigma\n"])
def test_a_column_called_s_may_lack_two_pi(tmp_path, header):
    path = write(tmp_path / "a.dat", header + ROWS)
    with pytest.raises(GeometryError, match="a.dat: the first column is called s.*2 pi"):
        read_frames(path)
    np.testing.assert_allclose(q_of(read_frames(path, q_unit="1/nm")[0]), [0.001, 0.002, 0.003])


def test_fortrans_exponents_and_utf_16(tmp_path):
    text = "# q I sigma\n" + ROWS.replace("0.01 ", "1.0D-02 ").replace("10 1", "1d+1 .1d1")
    (tmp_path / "windows.txt").write_bytes(text.encode("utf-16"))
    for path in (write(tmp_path / "a.dat", text), tmp_path / "windows.txt"):
        (frame,) = read_frames(path)
        np.testing.assert_allclose(q_of(frame), [0.01, 0.02, 0.03])
        np.testing.assert_allclose(frame.intensity, [10, 9, 8])


def test_users_unit_wins_over_the_header(tmp_path):
    (frame,) = read_frames(write(tmp_path / "a.dat", "# q (1/A)\n" + ROWS), q_unit="1/nm")
    np.testing.assert_allclose(q_of(frame), [0.001, 0.002, 0.003])
    with pytest.raises(GeometryError, match="q_unit= gives q in 'furlong'"):
        read_frames(tmp_path / "a.dat", q_unit="furlong")


@pytest.mark.parametrize(
    "text",
    [
        "0.01;10;1\n0.02;9;0.9\n0.03;8;0.8\n",
        "0,01;10;1\n0,02;9;0,9\n0,03;8;0,8\n",
        "0,01\t10\t1\n0,02\t9\t0,9\n0,03\t8\t0,8\n",
        "q,I,sigma\n0.01,10,1\n0.02,9,0.9\n0.03,8,0.8\n",
        "0.01 , 10 , 1\n\n# a remark\n0.02 , 9 , 0.9\n0.03 , 8 , 0.8\n# {\n#  'a': 1\n# }\n",
        "1 2 3 4 5\nSample 3\n0.01 10 1\r\n0.02 9 0.9\r\n0.03 8 0.8\r\nend of data\n",
    ],
)
def test_separators_headers_and_footers(tmp_path, text):
    (frame,) = read_frames(write(tmp_path / "a.txt", text))
    np.testing.assert_allclose(q_of(frame), [0.01, 0.02, 0.03])
    np.testing.assert_allclose(frame.intensity, [10, 9, 8])
    np.testing.assert_allclose(frame.sigma, [1, 0.9, 0.8])


def test_nan_and_negative_intensities_are_kept_for_the_judgement_of_the_model(tmp_path):
    (frame,) = read_frames(write(tmp_path / "a.dat", "0.01 -1.#IND 1\n0.02 nan 1\n0.03 -2 1\n0.04 1 0\n"))
    np.testing.assert_array_equal(frame.usable, [False, False, True, False])


def test_missing_sigma_is_an_error_that_says_how_to_give_it(tmp_path):
    path = write(tmp_path / "two.dat", "0.01 10\n0.02 -9\n")
    with pytest.raises(FrameError, match="two.dat: found no column of errors.*relative_sigma"):
        read_frames(path)
    (frame,) = read_frames(path, relative_sigma=0.02)
    np.testing.assert_allclose(frame.sigma, [0.2, 0.18])
    with pytest.raises(FrameError, match="relative_sigma=-1"):
        read_frames(path, relative_sigma=-1)
    with pytest.raises(FrameError, match="all zero"):
        read_frames(write(tmp_path / "zero.dat", "0.01 10 0\n0.02 9 0\n"))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (ROWS + "0.04 7\n", StorageError, r"line 4 \('0.04 7'\) holds 2 numbers, expected 3"),
        (ROWS + "0.04 7 0.", None, ""),
        (ROWS + "0.04 7 1.0e-", StorageError, "line 4 .* holds text"),
        ("0.01 1 1\n0.02 oops 1\n0.03 1 1\n0.04 1 1\n0.05 ? 1\n", StorageError, "line 5"),
        ("### DATA:\n#\n# 5\n# Q I Error\n" + ROWS, StorageError, "found 3 points, expected 5"),
        ("just words\n", StorageError, "no table of numbers"),
        ("0.02 1 1\n0.01 1 1\n", GeometryError, "q is not increasing"),
        ("0.02 1 1\n0.02 1 1\n", GeometryError, "q is not increasing"),
        ("", StorageError, "the file is empty"),
        ("<?xml version='1.0'?><SASroot><SASentry>", StorageError, "not well-formed XML"),
        ("<?xml version='1.0'?><html/>", StorageError, "root element <html>"),
        (
            "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><SASroot/>",
            StorageError,
            "declares a document type",
        ),
    ],
)
def test_damaged_text_is_named_with_the_file(tmp_path, text, error, words):
    path = write(tmp_path / "damaged.dat", text)
    if error is None:
        assert read_frames(path)[0].intensity.size == 4
        return
    with pytest.raises(error, match=f"damaged.dat: .*{words}"):
        read_frames(path)


def test_missing_files_and_unknown_kinds(tmp_path):
    with pytest.raises(StorageError, match="nowhere.dat: no such file"):
        read_frames(tmp_path / "nowhere.dat")
    (tmp_path / "what.bin").write_bytes(bytes(range(256)))
    with pytest.raises(StorageError, match="what.bin: neither HDF5 nor text"):
        read_frames(tmp_path / "what.bin")


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("name", ["1d_data/Ludox_silica.xml", "1d_data/Lew_Sa3_DSM_QinA.h5"])
def test_truncated_measured_files(examples, tmp_path, name, fraction):
    content = (examples / name).read_bytes()
    path = tmp_path / Path(name).name
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(StorageError, match=f"{path.name}: "):
        read_frames(path)


@pytest.fixture
def counts():
    return np.random.default_rng(5).poisson(7, (3, 40, 50)).astype(np.uint32)


@pytest.mark.parametrize("suffix", [".tif", ".cbf", ".edf"])
def test_images_come_back_as_written_and_truncated_ones_are_refused(tmp_path, counts, suffix):
    path = tmp_path / f"frame{suffix}"
    makers = {
        ".tif": fabio.tifimage.TifImage,
        ".cbf": fabio.cbfimage.CbfImage,
        ".edf": fabio.edfimage.EdfImage,
    }
    makers[suffix](data=counts[0].astype(np.int32)).write(str(path))
    (frame,) = read_frames(path, geometry=GEOMETRY)
    np.testing.assert_array_equal(frame.intensity, counts[0])
    assert frame.geometry == GEOMETRY and frame.mask is None
    content = path.read_bytes()
    path.write_bytes(content[: int(0.6 * len(content))])
    with pytest.raises(StorageError, match=f"frame{suffix}: "):
        read_frames(path, geometry=GEOMETRY)
    path.write_bytes(b"nothing like an image, but long enough for a header" * 20)
    with pytest.raises(StorageError, match=f"frame{suffix}: "):
        read_frames(path, geometry=GEOMETRY)


def test_multi_frame_edf(tmp_path, counts):
    image = fabio.edfimage.EdfImage(data=counts[0])
    for more in counts[1:]:
        image.append_frame(data=more)
    image.write(str(tmp_path / "stack.edf"))
    frames = read_frames(tmp_path / "stack.edf", geometry=GEOMETRY)
    np.testing.assert_array_equal([frame.intensity for frame in frames], counts)
    assert [frame.origin.seq_num for frame in frames] == [1, 2, 3]


def test_measured_pilatus_frame_with_poni_and_mask(shared_data, tmp_path):
    path = shared_data / "saxs2d" / "glucose_isomerase_pilatus_chess_g1" / "GI2_A9_19_001_0000.tiff"
    poni = write(
        tmp_path / "pilatus.poni",
        'poni_version: 2.1\nDetector: Detector\nDetector_config: {"pixel1": 0.000172, "pixel2": 0.000172, '
        '"max_shape": null, "orientation": 3}\nDistance: 1.5027\nPoni1: 0.016684\nPoni2: 0.0837984\n'
        "Rot1: 0\nRot2: 0\nRot3: 0\nWavelength: 1.245e-10\n",
    )
    mask = np.zeros((195, 487), np.uint8)
    mask[:, -60:] = 1
    np.save(tmp_path / "mask.npy", mask)
    (frame,) = read_frames(path, poni=poni, mask=tmp_path / "mask.npy")
    assert frame.intensity.shape == (195, 487) and frame.intensity.max() == 39
    curve = integrate(frame)
    assert q_of(curve)[0] == pytest.approx(0.035, rel=0.05), "60 pixels from the beam"
    with pytest.raises(GeometryError, match="tiff: detector frames without geometry.*poni="):
        read_frames(path)
    with pytest.raises(FrameError, match="does not match"):
        read_frames(path, poni=poni, mask=mask[:5])
    with pytest.raises(StorageError, match="no such mask file"):
        read_frames(path, poni=poni, mask=tmp_path / "none.npy")


def test_hdf5_stack_with_its_own_geometry_mask_and_saturated_pixels(tmp_path, counts):
    counts[1, 2, 3] = np.iinfo(np.uint32).max
    with h5py.File(tmp_path / "eiger.h5", "w") as file:
        file["entry/data/data"] = counts
        file["entry/instrument/detector/pixel_mask"] = np.eye(40, 50, dtype=np.uint32)
        for name, value, unit in (
            ("beam/incident_wavelength", 1.0, "angstrom"),
            ("detector/distance", 2000.0, "mm"),
            ("detector/x_pixel_size", 75.0, "um"),
            ("detector/y_pixel_size", 75e-6, "m"),
            ("detector/beam_center_x", 10.0, "pixel"),
            ("detector/beam_center_y", 20.0, "pixel"),
        ):
            file[f"entry/instrument/{name}"] = value
            file[f"entry/instrument/{name}"].attrs["units"] = unit
    frames = read_frames(tmp_path / "eiger.h5")
    np.testing.assert_array_equal([frame.intensity for frame in frames], counts)
    geometry = frames[0].geometry
    assert geometry.wavelength_m == pytest.approx(1e-10) and geometry.distance_m == pytest.approx(2.0)
    assert geometry.pixel_size_m == pytest.approx((75e-6, 75e-6))
    assert geometry.poni_m == pytest.approx((20 * 75e-6, 10 * 75e-6))
    assert frames[0].mask.sum() == 40 and frames[1].mask.sum() == 41 and frames[1].mask[2, 3]


def test_hdf5_stack_at_another_path_in_parts_or_ambiguous(tmp_path, counts):
    with h5py.File(tmp_path / "parts.h5", "w") as file:
        file["entry/data/data_000001"] = counts[:2]
        file["entry/data/data_000002"] = counts[2:]
    assert len(read_frames(tmp_path / "parts.h5", geometry=GEOMETRY)) == 3
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["scan/frames"] = counts
    assert len(read_frames(tmp_path / "other.h5", geometry=GEOMETRY)) == 3
    with h5py.File(tmp_path / "other.h5", "a") as file:
        file["scan/dark"] = counts
    with pytest.raises(StorageError, match=r"found /scan/dark \(3, 40, 50\), /scan/frames .*dataset="):
        read_frames(tmp_path / "other.h5", geometry=GEOMETRY)
    assert len(read_frames(tmp_path / "other.h5", geometry=GEOMETRY, dataset="scan/dark")) == 3
    with pytest.raises(StorageError, match="'scan/none' is missing"):
        read_frames(tmp_path / "other.h5", geometry=GEOMETRY, dataset="scan/none")


def test_truncated_stack_and_lazy_reading(tmp_path):
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file.create_dataset("entry/data/data", data=np.ones((100, 64, 64)), chunks=(1, 64, 64))
    first = next(iter_frames(tmp_path / "stack.h5", geometry=GEOMETRY))
    assert first.origin.seq_num == 1
    content = (tmp_path / "stack.h5").read_bytes()
    (tmp_path / "stack.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match="stack.h5: HDF5 cannot be read .*cut short"):
        read_frames(tmp_path / "stack.h5", geometry=GEOMETRY)


def test_nxcansas_stack_of_curves_in_inverse_nanometres(tmp_path):
    q = np.linspace(0.1, 2.0, 20)
    with h5py.File(tmp_path / "series.h5", "w") as file:
        group = file.create_group("entry/sasdata")
        group.attrs["canSAS_class"] = "SASdata"
        group.attrs["signal"] = "I"
        group["Q"], group["I"], group["errors"] = q, np.outer([1, 2], q), np.ones((2, 20))
        group["Q"].attrs["units"] = "1/nm"
        group["I"].attrs.update(units="1/cm", uncertainties="errors")
    one, two = read_frames(tmp_path / "series.h5")
    assert isinstance(one.geometry, CurveGeometry) and one.geometry.absolute
    np.testing.assert_allclose(q_of(two), q / 10)
    np.testing.assert_allclose(two.intensity, 2 * q)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("1/nm", 0.1), ("nm^-1", 0.1), ("nm-1", 0.1), ("1/A", 1), ("A^-1", 1), ("1/angstrom", 1), ("Å^-1", 1)]
    + [("Angstrom^{-1}", 1), ("1/m", 1e-10), ("m^-1", 1e-10), ("1/mm", None), ("degrees", None), ("", None)],
)
def test_spellings_of_units(unit, scale):
    assert q_scale(unit) == scale


def test_units_of_other_quantities_do_not_pass_for_q():
    assert q_scale_from_header(["I (1/nm) of q"]) is None
