import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfphasing_bluesky.storage.catalogs import close_catalog, embedded_catalog
from nfphasing_bluesky.storage.queries import density_dataset, reconstructions_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROFILE = Path(__file__).resolve().parents[2] / "profiles" / "nslsii"
SESSION = """
RE(scan([saxs], sample, 0, 1, 5))
ledger = wait_for_reconstructions(500)
print("LEDGER", ledger.received, ledger.reconstructed, ledger.dropped, ledger.failed)
print("ROWS", reconstruction().sizes["time"])
live.update(); print("ERRORS", live.errors, reconstruct.errors, raw_sink.problems)
exit()
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """An IPython session with the profile in which a scan ran: its output, and its data folder."""
    folder = tmp_path_factory.mktemp("session")
    shutil.copytree(PROFILE / "startup", folder / "profile" / "startup")
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "NFPHASING_MODEL")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment.update(NFPHASING_DATA=str(folder / "data"), OMP_NUM_THREADS="1", IPYTHONDIR=str(folder))
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--profile-dir", str(folder / "profile")],
        input=SESSION,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=560,
    )
    return done, folder / "data"


def test_the_session_reconstructs_every_frame_of_its_scan(session):
    done, _ = session
    assert done.returncode == 0, done.stderr[-2000:]
    assert "RE(growth())" in done.stdout, "the banner"
    assert "LEDGER 5 5 0 0" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert "ROWS 5" in done.stdout and "ERRORS 0 0 ()" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr, done.stdout[-3000:]
    before = done.stderr[: done.stderr.index("saxs1d-pr is loaded")]
    assert "WARNING" not in before, before


def test_raw_and_derived_runs_are_in_the_catalog_of_another_process(session):
    _, data = session
    client = embedded_catalog(data / "catalog")
    try:
        ((uid, raw),) = client["raw"].items()
        positions = np.asarray(raw["primary"].read()["sample"])
        np.testing.assert_allclose(positions, np.linspace(0, 1, 5))
        (derived,) = reconstructions_of(client, uid)
        density = density_dataset(derived)
        assert density["density_mean"].shape[0] == 5 and np.isfinite(density["density_mean"]).all()
        assert np.asarray(density["raw_seq_num"]).tolist() == [1, 2, 3, 4, 5]
        assert density["rg_angstrom"].attrs["units"] == "angstrom"
        sizes = np.asarray(density["rg_angstrom"])
        assert sizes[-1] > 1.5 * sizes[0], "the particle grows by a factor of 2.5"
    finally:
        close_catalog(client)


def test_the_plot_is_drawn_without_a_display(session):
    _, data = session
    assert (data / "live.png").read_bytes().startswith(b"\x89PNG")
