"""Coherent patterns through files, a RunEngine and databroker: the answers side by side wherever they go."""

import json

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from typer.testing import CliRunner

from nfphasing_bluesky.cli import app
from nfphasing_bluesky.core import ReconstructionSettings
from nfphasing_bluesky.demo.images import ReplayImages
from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog
from nfphasing_bluesky.storage.nexus import read_posterior
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of
from nfphasing_bluesky.streaming.callback import ReconstructionCallback
from tests.coherent_model import GEOMETRY, coherent_counts, coherent_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return coherent_model(tmp_path_factory.mktemp("coherent"))


@pytest.fixture(scope="module")
def pattern():
    return coherent_counts(3)


def check_twins(weights, means, u):
    """The object and its inversion twin, as heavy as each other, up to a shift."""
    assert weights[:2].sum() > 0.9 and abs(weights[0] - weights[1]) < 0.1
    for wanted in (u, u[::-1, ::-1]):
        errors = [np.linalg.norm(mean - wanted) / np.linalg.norm(wanted) for mean in means[:2]]
        assert min(errors) < 0.15 < max(errors)


@pytest.mark.slow
def test_a_scan_keeps_the_answers_in_the_derived_run(model, pattern, tmp_path):
    counts, u = pattern
    camera = ReplayImages("area", tmp_path / "detector", [counts, counts], ["one", "two"])
    callback = ReconstructionCallback(
        str(model),
        tmp_path / "catalog",
        data_key="area_image",
        reconstruction=ReconstructionSettings(n_samples=64),
        worker="thread",
    )
    try:
        RE = RunEngine({})
        RE.subscribe(callback)
        uid = RE(bp.count([camera], num=2), nfphasing={"geometry": dict(GEOMETRY)})
        uid = getattr(uid, "run_start_uids", uid)[0]
        assert callback.wait(280), callback.trouble
    finally:
        callback.close()
    catalog = embedded_catalog(tmp_path / "catalog")
    try:
        (run,) = reconstructions_of(catalog, uid)
        density = density_dataset(run)
        assert density["mode_mean"].dims == ("time", "mode", "y", "x")
        assert density["mode_weight"].shape == (2, 4)
        for frame in range(2):
            check_twins(density["mode_weight"].values[frame], density["mode_mean"].values[frame], u)
        # one blurred mean is neither
        blurred = density["density_mean"].values[0]
        assert np.linalg.norm(blurred - u) > 0.2 * np.linalg.norm(u)
    finally:
        close_catalog(catalog)


def test_reconstruct_prints_and_stores_the_answers(model, pattern, tmp_path):
    counts, u = pattern
    with h5py.File(tmp_path / "frame.h5", "w") as file:
        file["entry/data/data"] = counts[None]
    said = ["wavelength_m=1.5e-10", "distance_m=5.0", "pixel_size_m=75e-6", "beam_center_px=8,8"]
    geometry = [word for one in said for word in ("--geometry", one)]
    options = ["--model", str(model), "--n-samples", "64", "--output", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, ["reconstruct", str(tmp_path / "frame.h5"), *geometry, *options])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    weights = [mode["weight"] for mode in result["modes"]]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1)
    assert result["modes"][0]["parameters"]["total_density"] == pytest.approx(u.sum(), rel=0.1)
    back = read_posterior(result["output"])
    assert [mode.weight for mode in back.modes()] == weights
    check_twins(np.array(weights), [mode.mean for mode in back.modes()], u)
