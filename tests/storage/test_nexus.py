"""The NeXus file of one reconstruction: what other programs see in it, and the way back."""

import json
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Failure,
    Frame,
    Origin,
    Posterior,
    ReconstructionSettings,
    StorageError,
    Symmetry,
)
from nfphasing_bluesky.storage.nexus import read_posterior, write_posterior
from nfphasing_bluesky.storage.readers import read_frames
from nfphasing_bluesky.storage.results import failure_as_json, posterior_as_json

SETTINGS = ReconstructionSettings(n_samples=256, seed=7)


@pytest.fixture
def written(conalbumin, tmp_path):
    frame, posterior, info = conalbumin
    return write_posterior(tmp_path / "new" / "result.h5", posterior, frame, info, SETTINGS)


def assert_same(one, other):
    """Compare two frozen nouns field by field, arrays by value."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif field.name == "parameters":
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        elif field.name in ("density", "prediction"):
            assert_same(a, b)
        elif field.name == "axes":
            for axis, axis_back in zip(a, b, strict=True):
                assert_same(axis, axis_back)
        else:
            assert a == b, field.name


def test_posterior_comes_back_as_it_was(conalbumin, written):
    assert_same(conalbumin[1], read_posterior(written))


def test_what_tells_answers_apart_comes_back_and_so_do_the_modes(conalbumin, tmp_path):
    frame, posterior, info = conalbumin
    answers = np.arange(len(posterior.samples)) % 2
    samples = posterior.samples * (1 + answers[:, None])
    changed = replace(posterior, samples=samples, symmetry=Symmetry(shift="bounded", references=9))
    changed = replace(changed, answers=answers)
    path = write_posterior(tmp_path / "a.h5", changed, frame, info, SETTINGS)
    back = read_posterior(path)
    assert_same(changed, back)
    assert [m.weight for m in back.modes()] == [m.weight for m in changed.modes()] == [0.5, 0.5]
    result = posterior_as_json(back, info)
    json.dumps(result, allow_nan=False)
    assert [m["weight"] for m in result["modes"]] == [0.5, 0.5]
    assert set(result["modes"][0]["parameters"]) == set(info_names(info))
    assert "modes" not in posterior_as_json(posterior, info)


def info_names(info):
    return [parameter.name for parameter in info.parameters]


def test_classes_missing_numbers_and_the_origin_come_back(conalbumin, tmp_path):
    frame, posterior, info = conalbumin
    radius = np.where(np.arange(256) % 2, 30.0, np.nan)
    changed = replace(
        posterior,
        classes={"sphere": 0.75, "cylinder": 0.25},
        parameters={**posterior.parameters, "radius_angstrom": radius},
        units={**posterior.units, "radius_angstrom": "angstrom"},
        trust=replace(posterior.trust, ess_fraction=None, acceptance=0.4, reason="q beyond the model's"),
        origin=Origin("détecteur", "uid", "primary", "saxs_image", 12, 1.5e9),
        place=(3.25, -8.0),
        light=np.linspace(0, 1, 12).reshape(3, 4),
    )
    back = read_posterior(write_posterior(tmp_path / "a.h5", changed, frame, info, SETTINGS))
    assert_same(changed, back)
    assert back.summary()["radius_angstrom"].median == 30.0


def test_silx_opens_the_file_at_the_density_with_errors_and_axes(conalbumin, written, oracle):
    nxdata = oracle("silx.io.nxdata")
    _, posterior, _ = conalbumin
    with h5py.File(written) as file:
        default = nxdata.get_default(file)
        assert default.is_valid and default.is_curve, default.issues
        np.testing.assert_array_equal(default.signal[()], posterior.mean)
        np.testing.assert_array_equal(default.errors[()], posterior.std)
        np.testing.assert_array_equal(default.axes[0][()], posterior.density.axes[0].values)
        assert default.axes_dataset_names == ["r"]
        for name in ("density", "data", "prediction"):
            assert nxdata.is_valid_nxdata(file["entry"][name]), name
        assert nxdata.NXdata(file["entry/data"]).errors is not None
        assert file["entry/density/mean"].attrs["units"] == "1/angstrom"
        assert file["entry/density/r"].attrs["units"] == "angstrom"
        assert file["entry/density/samples"].shape == (256, 81)


def test_process_says_how_to_make_it_again(conalbumin, written):
    _, posterior, info = conalbumin
    with h5py.File(written) as file:
        process = file["entry/process"]
        assert process["program"].asstr()[()] == "nfphasing-bluesky"
        assert process["model"].asstr()[()] == info.name
        assert process["model_sha256"].asstr()[()] == info.sha256
        assert ReconstructionSettings.model_validate_json(process["settings"].asstr()[()]) == SETTINGS
        assert process["seed"][()] == 7
        rg = file["entry/parameters/rg_angstrom"]
        assert rg.attrs["units"] == "angstrom"
        assert rg.attrs["median"] == np.median(posterior.parameters["rg_angstrom"])


def test_what_was_known_of_the_sample_is_in_the_process(conalbumin, written, tmp_path):
    frame, posterior, info = conalbumin
    known = replace(frame, bounds={"thickness_1_angstrom": (90.0, 110.0)})
    path = write_posterior(tmp_path / "known.h5", posterior, known, info, SETTINGS)
    with h5py.File(path) as file:
        assert json.loads(file["entry/process/bounds"].asstr()[()]) == {"thickness_1_angstrom": [90.0, 110.0]}
    with h5py.File(written) as file:
        assert "bounds" not in file["entry/process"]


def test_measured_curve_is_readable_as_cansas_data(conalbumin, tmp_path):
    frame, posterior, info = conalbumin
    geometry = replace(frame.geometry, absolute=True, dq_inv_angstrom=0.02 * frame.geometry.q_inv_angstrom)
    mask = np.zeros(frame.intensity.size, bool)
    mask[:3] = True
    masked = Frame(frame.intensity, geometry, frame.sigma, mask)
    (back,) = read_frames(write_posterior(tmp_path / "a.h5", posterior, masked, info, SETTINGS))
    np.testing.assert_array_equal(back.intensity, frame.intensity)
    np.testing.assert_array_equal(back.sigma, frame.sigma)
    np.testing.assert_array_equal(back.mask, mask)
    np.testing.assert_array_equal(back.geometry.q_inv_angstrom, geometry.q_inv_angstrom)
    np.testing.assert_array_equal(back.geometry.dq_inv_angstrom, geometry.dq_inv_angstrom)
    assert back.geometry.absolute


def test_without_frame_there_is_no_data_group(conalbumin, tmp_path):
    _, posterior, info = conalbumin
    path = write_posterior(tmp_path / "a.h5", posterior, None, info, SETTINGS)
    with h5py.File(path) as file:
        assert "data" not in file["entry"] and "prediction" in file["entry"]
    assert isinstance(read_posterior(path), Posterior)


def test_a_failing_write_leaves_the_earlier_file_and_nothing_else(conalbumin, written, monkeypatch):
    frame, posterior, info = conalbumin
    before = written.read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nfphasing_bluesky.storage.nexus._write_trust", disk_full)
    with pytest.raises(StorageError, match="result.h5: cannot be written .*No space left"):
        write_posterior(written, posterior, frame, info, SETTINGS)
    assert written.read_bytes() == before
    assert [item.name for item in written.parent.iterdir()] == ["result.h5"]


def test_a_folder_in_the_way_is_a_storage_error(conalbumin, tmp_path):
    frame, posterior, info = conalbumin
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        write_posterior(tmp_path / "file" / "result.h5", posterior, frame, info, SETTINGS)


def test_reading_something_else_names_the_file(written, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["entry/data"] = 1
    with pytest.raises(StorageError, match="other.h5"):
        read_posterior(tmp_path / "other.h5")
    content = written.read_bytes()
    written.write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match="result.h5: HDF5 cannot be read"):
        read_posterior(written)


def test_json_object_has_the_keys_of_the_design_and_is_plain_json(conalbumin):
    _, posterior, info = conalbumin
    odd = replace(
        posterior,
        parameters={**posterior.parameters, "radius_angstrom": np.full(256, np.nan)},
        units={**posterior.units, "radius_angstrom": "angstrom"},
        classes={"sphere": 1.0},
        trust=replace(posterior.trust, ess_fraction=None),
    )
    result = posterior_as_json(odd, info, input_path="curve.dat", output="curve.h5")
    back = json.loads(json.dumps(result, allow_nan=False))
    assert list(back) == [
        *("input", "model", "modality", "output", "figure", "parameters", "classes", "trust", "latency_s")
    ]
    assert back["input"] == "curve.dat" and back["output"] == "curve.h5" and back["figure"] is None
    rg = back["parameters"]["rg_angstrom"]
    assert set(rg) == {"median", "std", "q025", "q16", "q84", "q975", "unit"}
    assert rg["q025"] < rg["q16"] < rg["median"] < rg["q84"] < rg["q975"] and rg["unit"] == "angstrom"
    assert back["parameters"]["radius_angstrom"]["median"] is None
    assert set(back["trust"]) == {"reduced_chi2", "ess_fraction", "ood_score", "verdict", "reason"}
    assert back["trust"]["ess_fraction"] is None and back["trust"]["verdict"] == "VALID"
    assert back["classes"] == {"sphere": 1.0} and back["latency_s"] > 0


def test_a_failure_has_its_error(conalbumin):
    failed = failure_as_json(Failure(Origin("curve.dat"), "all masked"), conalbumin[2])
    assert failed == {
        "input": "curve.dat",
        "model": "indirect-transform",
        "modality": "saxs1d",
        "error": "all masked",
    }
