"""`nfphasing reconstruct`: what it prints, writes and returns."""

import json

import fabio.tifimage
import h5py
import numpy as np
import pytest

NUMBERS = {"median", "std", "q025", "q16", "q84", "q975"}
RESULT = {"input", "model", "modality", "output", "figure", "parameters", "classes", "trust", "latency_s"}
TRUST = {"reduced_chi2", "ess_fraction", "ood_score", "verdict", "reason"}
PONI = (
    'poni_version: 2.1\nDetector: Detector\nDetector_config: {"pixel1": 0.0004, "pixel2": 0.0004, '
    '"max_shape": null, "orientation": 3}\nDistance: 1.0\nPoni1: 0.0402\nPoni2: 0.0402\n'
    "Rot1: 0\nRot2: 0\nRot3: 0\nWavelength: 1e-10\n"
)
RG = 30.0


def curve_text(path, q, intensity, sigma):
    np.savetxt(path, np.stack([q, intensity, sigma], axis=1), header="q (1/A), I, sigma")
    return path


@pytest.fixture
def curve(tmp_path):
    """A Guinier curve with 2 % errors over a background."""
    q = np.linspace(0.01, 0.3, 120)
    intensity = 100 * np.exp(-((RG * q) ** 2) / 3) + 1
    noisy = intensity * (1 + 0.02 * np.random.default_rng(0).normal(size=q.size))
    return curve_text(tmp_path / "curve.dat", q, noisy, 0.02 * intensity)


def check_schema(result, model):
    """Hold one object against the design, exactly."""
    assert set(result) == RESULT
    assert (result["model"], result["modality"]) == (model, model)
    for name, summary in result["parameters"].items():
        assert set(summary) == NUMBERS | {"unit"}, name
        values = [summary[k] for k in ("q025", "q16", "median", "q84", "q975")]
        assert values == sorted(values) if None not in values else set(values) == {None}
        assert name.endswith("_angstrom") == (summary["unit"] == "angstrom")
    assert set(result["trust"]) == TRUST
    assert result["trust"]["verdict"] in {"VALID", "WARNING", "ALARM"}
    assert bool(result["trust"]["reason"]) == (result["trust"]["verdict"] != "VALID")
    assert result["latency_s"] > 0


def check_files(result):
    """The files are where it says, and hold what it says."""
    with open(result["figure"], "rb") as figure:
        assert figure.read(8) == b"\x89PNG\r\n\x1a\n"
    with h5py.File(result["output"]) as file:
        entry = file["entry"]
        mean, std, samples = (entry["density"][name][()] for name in ("mean", "std", "samples"))
        assert mean.shape == std.shape == samples.shape[1:]
        np.testing.assert_allclose(samples.mean(0), mean, rtol=1e-4, atol=1e-4 * np.abs(mean).max())
        first = next(iter(result["parameters"]))
        median = float(np.nanmedian(entry["parameters"][first][()]))
        assert median == pytest.approx(result["parameters"][first]["median"], rel=1e-4)


def test_measured_protein_and_a_curve_of_sasdata(nfphasing, shared_data, sasdata_curve, tmp_path):
    protein = shared_data / "saxs1d/glucose_isomerase_chess_g1/glucose_isomerase.dat"
    done = nfphasing("reconstruct", protein, sasdata_curve, "--output", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    assert set(done.json) == {"results"}
    results = done.json["results"]
    assert [r["input"] for r in results] == [str(protein), str(sasdata_curve)]
    for result in results:
        check_schema(result, "saxs1d-pr")
        check_files(result)
        assert {"rg_angstrom", "d_max_angstrom"} <= set(result["parameters"])
        assert result["classes"] == {}
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert "glucose_isomerase.dat: " in done.err


def test_particles_have_classes_and_missing_parameters_are_null(nfphasing, curve, tmp_path):
    arguments = ("--model", "saxs1d-particles", "--n-samples", "64", "--output", tmp_path / "out", "--json")
    done = nfphasing("reconstruct", curve, *arguments)
    assert done.status == 0, done.err
    (result,) = done.json["results"]
    check_schema(result, "saxs1d-particles")
    check_files(result)
    assert set(result["classes"]) == {"sphere", "core_shell_sphere", "ellipsoid", "cylinder"}
    assert sum(result["classes"].values()) == pytest.approx(1, abs=1e-4)
    assert "radius_angstrom" in result["parameters"]


def test_the_same_seed_gives_the_same_numbers(nfphasing, curve, tmp_path):
    def parameters(seed):
        done = nfphasing("reconstruct", curve, "--seed", seed, "--output", tmp_path / "out", "--json")
        return done.json["results"][0]["parameters"]

    first = parameters(5)
    assert first == parameters(5)
    assert first["rg_angstrom"]["median"] != parameters(6)["rg_angstrom"]["median"]


def test_a_bad_file_among_good_ones(nfphasing, curve, tmp_path):
    bad = tmp_path / "bad.dat"
    bad.write_text("this is no curve\n")
    again = curve_text(tmp_path / "again.dat", *np.loadtxt(curve).T)
    missing = tmp_path / "missing.dat"
    done = nfphasing("reconstruct", curve, bad, missing, again, "--output", tmp_path / "out", "--json")
    assert done.status == 1
    results = done.json["results"]
    assert ["error" in r for r in results] == [False, True, True, False]
    assert set(results[1]) == {"input", "model", "modality", "error"}
    assert "no table of numbers" in results[1]["error"] and "no such file" in results[2]["error"]
    check_files(results[0])
    check_files(results[3])
    assert "bad.dat" in done.err


def test_a_frame_that_the_model_cannot_take_is_an_error_of_its_own(nfphasing, curve, tmp_path):
    q, intensity, sigma = np.loadtxt(curve).T
    dark = curve_text(tmp_path / "dark.dat", q, np.zeros_like(q), sigma)
    done = nfphasing("reconstruct", dark, curve, "--output", tmp_path / "out", "--json")
    assert done.status == 1
    assert "signal-to-noise" in done.json["results"][0]["error"]
    check_files(done.json["results"][1])


def test_files_of_one_name_do_not_overwrite_each_other(nfphasing, curve, tmp_path):
    (tmp_path / "other").mkdir()
    q, intensity, sigma = np.loadtxt(curve).T
    other = curve_text(tmp_path / "other" / "curve.dat", q, intensity**2, 2 * intensity * sigma)
    done = nfphasing("reconstruct", curve, other, "--output", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    one, two = done.json["results"]
    assert one["output"] != two["output"] and one["figure"] != two["figure"]
    check_files(one)
    check_files(two)


def test_an_output_that_cannot_be_written_is_an_error_of_each_file(nfphasing, curve, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file, not a folder")
    done = nfphasing("reconstruct", curve, curve, "--output", taken, "--json")
    assert done.status == 1
    assert ["cannot be written" in r["error"] for r in done.json["results"]] == [True, True]
    assert taken.read_text() == "a file, not a folder"


def test_an_image_with_a_poni_file(nfphasing, tmp_path):
    row, column = np.indices((201, 201)) * 0.0004 + 0.0002
    angle = np.arctan(np.hypot(row - 0.0402, column - 0.0402))
    q = 4 * np.pi * np.sin(angle / 2)
    expected = 2000 * np.exp(-((RG * q) ** 2) / 3) + 5
    image = np.random.default_rng(0).poisson(expected).astype(np.int32)
    fabio.tifimage.TifImage(data=image).write(str(tmp_path / "frame.tif"))
    (tmp_path / "geometry.poni").write_text(PONI)
    arguments = ("reconstruct", tmp_path / "frame.tif", "--output", tmp_path / "out", "--json")
    without = nfphasing(*arguments)
    assert without.status == 1 and "poni" in without.json["results"][0]["error"]
    done = nfphasing(*arguments, "--poni", tmp_path / "geometry.poni")
    assert done.status == 0, done.err
    (result,) = done.json["results"]
    check_schema(result, "saxs1d-pr")
    q_out, intensity = stored_curve(result)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["dark/data"], file["light/data"] = 0 * image, image
    arguments = ("reconstruct", tmp_path / "two.h5", *arguments[2:], "--poni", tmp_path / "geometry.poni")
    assert "--dataset" in nfphasing(*arguments).json["results"][0]["error"]
    named = nfphasing(*arguments, "--dataset", "light/data").json["results"][0]
    np.testing.assert_array_equal(stored_curve(named)[1], intensity)
    good = np.isfinite(intensity) & (q_out > 0.01) & (q_out < 0.1)
    slope = np.polyfit(q_out[good] ** 2, np.log(intensity[good] - 5 * intensity[good][0] / 2000), 1)[0]
    assert np.sqrt(-3 * slope) == pytest.approx(RG, rel=0.05)


def stored_curve(result):
    with h5py.File(result["output"]) as file:
        data = file["entry/data"]
        return data["Q"][()], data["I"][()]


def test_a_buffer_is_subtracted(nfphasing, curve, tmp_path):
    q, intensity, sigma = np.loadtxt(curve).T
    buffer = curve_text(tmp_path / "buffer.dat", q, np.full_like(q, 40.0), np.full_like(q, 0.3))
    sample = curve_text(tmp_path / "sample.dat", q, intensity + 40.0, np.hypot(sigma, 0.3))
    done = nfphasing("reconstruct", sample, "--buffer", buffer, "--output", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    _, stored = stored_curve(done.json["results"][0])
    np.testing.assert_allclose(stored, intensity, rtol=1e-5, atol=1e-5)
    with h5py.File(tmp_path / "buffers.h5", "w") as file:
        group = file.create_group("buffers")
        group.attrs.update(canSAS_class="SASdata", signal="I")
        group["Q"], group["I"] = q, np.stack([np.full_like(q, 10.0), np.full_like(q, 70.0)])
        group["Idev"] = np.full((2, q.size), 0.3)
        group["Q"].attrs["units"] = "1/angstrom"
    arguments = ("--buffer", tmp_path / "buffers.h5", "--output", tmp_path / "mean", "--json")
    done = nfphasing("reconstruct", sample, *arguments)
    assert done.status == 0, done.err
    np.testing.assert_allclose(stored_curve(done.json["results"][0])[1], intensity, rtol=1e-5, atol=1e-5)
    missing = nfphasing("reconstruct", sample, "--buffer", tmp_path / "none.dat", "--output", tmp_path)
    assert missing.status == 1 and "none.dat" in missing.err


def test_columns_and_unit_of_q(nfphasing, shared_data, tmp_path):
    cubes = shared_data / "saxs1d/npsize4_bam/nPSize4.dat"
    chosen = ("--columns", "0,3,4", "--q-unit", "1/nm")
    model = ("--model", "saxs1d-particles")
    done = nfphasing("reconstruct", cubes, *chosen, *model, "--output", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    (result,) = done.json["results"]
    check_schema(result, "saxs1d-particles")
    q, intensity = stored_curve(result)
    table = np.genfromtxt(cubes, delimiter=";")
    np.testing.assert_allclose(q, table[:, 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(intensity, table[:, 3], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        ("reconstruct",),
        ("reconstruct", "x.dat", "--columns", "a,b"),
        ("reconstruct", "x.dat", "--bounds", "thickness_1_angstrom=90"),
        ("reconstruct", "x.dat", "--n-samples", "1"),
        ("reconstruct", "x.dat", "--n-samples", "1000000"),
        ("reconstruct", "x.dat", "--sigma-floor", "-1"),
        ("reconstruct", "x.dat", "--sigma_floor", "0.1"),
        ("evaluate", "saxs1d-pr", "--frames", "5"),
        ("train", "saxs1d-pr", "--steps", "0"),
        ("train", "saxs1d-pr", "--steps", "5", "--minutes", "1"),
        ("train", "saxs1d-pr", "--set", "companions"),
        ("replay", "no-such-folder", "--catalog", "x"),
        ("polish",),
    ],
)
def test_wrong_usage(nfphasing, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = nfphasing(*arguments)
    assert done.status == 2 and done.out == ""
    assert "Usage" in done.err and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_or_device_that_is_not_there(nfphasing, curve, tmp_path):
    done = nfphasing("reconstruct", curve, "--model", "nonsense", "--output", tmp_path / "out", "--json")
    assert done.status == 1 and done.out == ""
    assert "ModelError: no model 'nonsense'" in done.err and "saxs1d-pr" in done.err
    done = nfphasing("reconstruct", curve, "--device", "abacus", "--output", tmp_path / "out", "--json")
    assert done.status == 1 and "abacus" in done.err


def test_the_program_itself(start, curve, tmp_path):
    """The installed executable, as users start it: only JSON on stdout, progress on stderr."""
    process = start("reconstruct", curve, "--output", tmp_path / "out", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (result,) = json.loads(out)["results"]
    check_schema(result, "saxs1d-pr")
    check_files(result)
    assert "curve.dat" in err and "Warning" not in err and "OpenCl" not in err


def test_a_scan_and_a_model_of_curves(nfphasing, tmp_path):
    from tests.known_object import PROBE, counts, places

    where = places()[:3]
    np.savez(tmp_path / "scan.npz", counts=counts(where), where=where)
    np.savez(tmp_path / "probe.npz", illumination=PROBE)
    names = ("--map", "counts=data", "--map", "where=positions_px", "--map", "illumination=probe")
    scan = ("reconstruct", tmp_path / "scan.npz", *names, "--output", tmp_path / "out")
    done = nfphasing(*scan, "--probe", tmp_path / "probe.npz", "--positions-sign", "1,-1", "--json")
    assert done.status == 1
    (result,) = done.json["results"]
    assert "none of 3 frames could be used" in result["error"] and "expected a curve" in result["error"]
    assert "3 of 3 frames" in done.err
    assert nfphasing(*scan, "--positions-sign", "up").status == 2
    done = nfphasing(*scan[:2], *names[:4], "--json")
    assert done.status == 1 and "--probe FILE" in done.json["results"][0]["error"]


def test_a_curve_on_an_absolute_scale_with_its_contrast(nfphasing, tmp_path):
    """The same curve without and with what is known of it: u is in e/A^3 only where both are said."""
    q = np.linspace(0.01, 0.3, 120)
    intensity = 100 * np.exp(-((RG * q) ** 2) / 3) + 1
    curve = curve_text(tmp_path / "curve.dat", q, intensity, 0.02 * intensity)
    arguments = ("--model", "saxs1d-particles", "--n-samples", "64", "--output", tmp_path / "out", "--json")

    def density(*said):
        done = nfphasing("reconstruct", curve, *said, *arguments)
        assert done.status == 0, done.err
        with h5py.File(done.json["results"][0]["output"]) as file:
            group = file["entry/density/mean"]
            return group[()], group.attrs["units"], file["entry/data/I"].attrs["units"], done.err

    relative, units, of_i, said = density()
    assert (units, of_i) == ("relative to core", "1") and "--contrast" not in said
    _, units, of_i, said = density("--intensity-unit", "1/cm")
    assert (units, of_i) == ("relative to core", "1/cm") and "--contrast" in said
    absolute, units, _, said = density("--intensity-unit", "1/cm", "--contrast", "0.1 e/angstrom^3")
    assert units == "e/angstrom^3" and "--contrast" not in said
    np.testing.assert_allclose(absolute, 0.1 * relative, rtol=1e-3)


def test_a_contrast_that_says_nothing(nfphasing, curve, tmp_path):
    arguments = ("--output", tmp_path / "out", "--json")
    done = nfphasing("reconstruct", curve, "--contrast", "0.1 e/angstrom^3", *arguments)
    assert done.status == 1 and "absolute" in done.json["results"][0]["error"]
    given = ("--contrast", "0.1 e/angstrom^3", "--intensity-unit", "1/cm")
    done = nfphasing("reconstruct", curve, *given, *arguments)
    assert done.status == 0 and "saxs1d-pr makes no use of the contrast" in done.err
    done = nfphasing("reconstruct", curve, "--contrast", "0.1", *arguments)
    assert done.status == 2 and "e/angstrom^3" in done.err
