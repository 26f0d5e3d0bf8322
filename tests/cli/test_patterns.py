"""`nfphasing reconstruct --model saxs2d-oriented`: patterns from files, and what is said of bad ones."""

import fabio.tifimage
import h5py
import numpy as np
import pytest
import typer

from nfphasing_bluesky import options
from nfphasing_bluesky.core import HologramGeometry
from tests.cli.test_reconstruct import check_files, check_schema
from tests.modalities.test_polar import LENGTH, PHI, RADIUS, axes, pixels

SIDE = 72
PIXEL_M, DISTANCE_M = 1e-3, 71 * 1e-3 * 2 * np.pi / 0.2
"""The q of `axes` at 1 angstrom, to 1e-4."""
GEOMETRY = (
    ("--geometry", "wavelength_m=1e-10", "--geometry", f"distance_m={DISTANCE_M}")
    + ("--geometry", f"pixel_size_m={PIXEL_M}", "--geometry", "beam_center_px=35.5,35.5")
)  # fmt: skip


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(1).poisson(800 * pixels(SIDE, shift=0.0) + 0.1).astype(np.uint16)


@pytest.fixture
def reconstruct(nfphasing, tmp_path):
    def run(*arguments):
        options = ("--model", "saxs2d-oriented", "--n-samples", "64", "--output", tmp_path / "out", "--json")
        return nfphasing("reconstruct", *arguments, *options)

    return run


def test_the_geometry_of_holograms_is_said_by_its_numbers():
    said = ["fresnel_number=0.01", "photons=400", "saturation=60000"]
    assert options.detector(said) == HologramGeometry(0.01, photons=400.0)
    assert options.saturation(said) == 60000.0
    assert options.detector(said[2:]) is None and options.saturation(said[:2]) is None
    with pytest.raises(typer.BadParameter, match="poni_m, expected for holograms some of fresnel_number"):
        options.detector([*said, "poni_m=1,2"])
    with pytest.raises(typer.BadParameter, match="saturation=much"):
        options.saturation(["saturation=much"])


def test_axes_of_q_and_a_stated_detector_give_the_same(reconstruct, counts, tmp_path):
    mask = np.zeros(counts.shape, dtype=bool)
    mask[34:38, 34:38] = True
    np.savez(tmp_path / "pattern.npz", n=counts, qx=axes(SIDE), qy=axes(SIDE), mask=mask)
    np.save(tmp_path / "mask.npy", mask)
    fabio.tifimage.TifImage(counts).write(str(tmp_path / "frame.tif"))
    by_q = reconstruct(tmp_path / "pattern.npz", "--map", "n=data")
    by_pixel = reconstruct(tmp_path / "frame.tif", *GEOMETRY, "--mask", tmp_path / "mask.npy")
    found = []
    for done in (by_q, by_pixel):
        assert done.status == 0, done.err
        (result,) = done.json["results"]
        check_schema(result, "saxs2d-oriented")
        check_files(result)
        assert result["classes"]["cylinder"] > 0.5 and result["trust"]["verdict"] == "VALID"
        found.append(result["parameters"])
        assert found[-1]["radius_angstrom"]["median"] == pytest.approx(RADIUS, rel=0.02)
        assert found[-1]["length_angstrom"]["median"] == pytest.approx(LENGTH, rel=0.03)
    for name, tolerance in (("phi_deg", 0.3), ("orientation_spread_deg", 0.3)):
        assert found[0][name]["median"] == pytest.approx(found[1][name]["median"], abs=tolerance)
    assert found[0]["phi_deg"]["median"] == pytest.approx(PHI, abs=0.5)
    with h5py.File(by_q.json["results"][0]["output"]) as file:
        seen, fit = file["entry/data/I"][()], file["entry/prediction/mean"][()]
        assert file["entry/density/mean"].attrs["units"] == "angstrom"
        assert seen.shape == fit.shape == counts.shape
        inside = np.isfinite(fit) & ~mask
        assert np.mean((seen - fit)[inside] ** 2 / fit[inside]) == pytest.approx(1, abs=0.15)


def test_what_is_wrong_with_a_file_is_said(reconstruct, counts, tmp_path):
    fabio.tifimage.TifImage(counts).write(str(tmp_path / "frame.tif"))
    np.savez(tmp_path / "dark.npz", data=0 * counts, qx=axes(SIDE), qy=axes(SIDE))
    np.savez(tmp_path / "far.npz", data=counts, qx=axes(SIDE) + 0.8, qy=axes(SIDE))
    np.savez(tmp_path / "full.npz", data=0 * counts + 65535, qx=axes(SIDE), qy=axes(SIDE))
    np.savez(tmp_path / "cut.npz", data=counts[:, 3:], qx=axes(SIDE), qy=axes(SIDE))
    files = [tmp_path / name for name in ("frame.tif", "dark.npz", "far.npz", "full.npz", "cut.npz")]
    done = reconstruct(*files)
    assert done.status == 1
    said = [
        "without geometry",
        "signal-to-noise",
        "no usable pixel has 0 < q <= 0.2.*q goes from 0.7",
        "no usable pixel.*0 % of its pixels",
        r"shape \(72, 69\), expected \(72, 72\)",
    ]
    for result, text in zip(done.json["results"], said, strict=True):
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(result["error"])


def test_geometry_that_is_no_geometry(reconstruct, counts, tmp_path):
    fabio.tifimage.TifImage(counts).write(str(tmp_path / "frame.tif"))
    assert reconstruct(tmp_path / "frame.tif", "--geometry", "distance_m=far").status == 2
    done = reconstruct(tmp_path / "frame.tif", "--geometry", "distance_m=2")
    assert done.status == 1 and "no wavelength_m, pixel_size_m, poni_m or beam_center_px" in done.err
