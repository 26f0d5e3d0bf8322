"""`nfphasing reconstruct --model gisaxs1d`: a frame of a surface from a file, and bad ones."""

import fabio.tifimage
import h5py
import numpy as np
import pytest

from tests.cli.test_reconstruct import RESULT, check_files
from tests.untrained import few_fits, untrained

DETECTOR = {
    "wavelength_m": "1.3e-10",
    "distance_m": "2.0",
    "pixel_size_m": "0.6e-3",
    "beam_center_px": "99.5,74.5",
    "incidence_degree": "0.4",
}


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """A frame that falls off from the horizon and the plane of incidence on, with a peak at 0.2 degrees."""
    row, column = np.arange(120)[:, None], np.arange(150)
    degree = np.degrees((100 - row - 0.5) * 0.6e-3 / 2.0) - 0.4
    q_y = 2 * np.pi / 1.3 * np.abs(column - 74.5) * 0.6e-3 / 2.0
    height = np.where(degree > 0, 1 / (1 + ((degree - 0.2) / 0.06) ** 2), 0.0)
    across = 1 / (1 + ((q_y - 0.02) / 0.01) ** 2) * np.exp(-((q_y * 20) ** 2) / 3)
    return np.random.default_rng(0).poisson(1 + 3000 * height * across).astype(np.int32)


@pytest.fixture
def reconstruct(nfphasing, tmp_path, counts):
    def run(model: object = "gisaxs1d", **changes: str):
        path = tmp_path / "surface.tif"
        fabio.tifimage.TifImage(counts).write(str(path))
        said = [x for pair in (DETECTOR | changes).items() for x in ("--geometry", "=".join(pair))]
        options = ("--model", model, "--n-samples", "16", "--output", tmp_path / "out", "--json")
        return nfphasing("reconstruct", path, *said, *options)

    return run


def test_a_frame_becomes_two_cuts_and_a_profile(reconstruct):
    done = reconstruct(exit_degree="0.15,0.25")
    assert done.status == 0, done.err
    (result,) = done.json["results"]
    assert set(result) == RESULT and set(result["classes"]) == {"supported", "buried"}
    check_files(result)
    assert result["parameters"]["radius_angstrom"]["unit"] == "angstrom"
    with h5py.File(result["output"]) as file:
        data = file["entry/data"]
        first = int(data.attrs["in_plane"])
        assert data["I"].shape == data["q"].shape == file["entry/prediction/mean"].shape
        assert data["q"].shape[0] == first + data["exit"].shape[0]
        assert np.all(np.diff(data["q"][:first]) > 0)
        np.testing.assert_allclose(np.degrees(data["exit_band"]), [0.15, 0.25], atol=0.02)
        assert file["entry/density/mean"].attrs["units"] == "e/angstrom^3"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beam_center_px": "85,74.5"}, "surface scatters from row"),
        ({"incidence_degree": "0.75"}, "check whether the angle is"),
    ],
)
def test_a_horizon_elsewhere_fails_with_the_reason(reconstruct, changes, words):
    done = reconstruct(**changes)
    assert done.status == 1
    assert words in done.json["results"][0]["error"]


def test_a_beam_along_the_surface_is_refused(reconstruct):
    done = reconstruct(incidence_degree="0")
    assert done.status == 1 and "lights nothing" in done.err


def test_a_model_of_frames_takes_them_whole(reconstruct, tmp_path, counts):
    with few_fits():
        done = reconstruct(model=untrained("gisaxs2d", tmp_path / "model"))
    assert done.status == 0, done.err
    (result,) = done.json["results"]
    assert set(result) == RESULT and "truncated_spheres" in result["classes"]
    check_files(result)
    with h5py.File(result["output"]) as file:
        data = file["entry/data"]
        assert np.array_equal(data["I"][()], counts)
        assert data["incidence"][()] == pytest.approx(np.radians(0.4))
        predicted = file["entry/prediction/mean"][()]
        assert predicted.shape == counts.shape
        # nothing is said of what lies below the horizon
        assert np.isnan(predicted[90:]).all() and np.isfinite(predicted[40, :60]).all()
