import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, DetectorGeometry, Frame, TransportError
from nfphasing_bluesky.core.orientation import ORIENTATIONS
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.views import doctor
from nfphasing_bluesky.views.doctor import Patient, examine, with_model, worst
from tests.simulated_scan import simulate


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.delenv("TANGO_HOST", raising=False)
    endpoints = {name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")}
    return WorkerSettings(catalog=str(tmp_path / "catalog"), **endpoints)


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


def test_a_measured_curve_on_a_machine_that_is_ready(settings, tmp_path):
    folder = Path(importlib.util.find_spec("sasdata").origin).parent / "example_data" / "1d_data"
    patient = Patient(settings.model_copy(update={"model": "saxs1d-pr"}), folder / "conalbumin.txt")
    findings = by_subject(examine(patient))
    assert findings["geometry"].verdict == "good" and "1/angstrom" in findings["geometry"].found
    assert findings["mask"].verdict == findings["model"].verdict == findings["tiled"].verdict == "good"
    assert findings["model range"].found.split(":")[0] in ("VALID", "WARNING", "ALARM")
    assert float(findings["frames a second"].found.split()[1]) > 0
    assert findings["Tango database"].verdict == "not checked"
    assert findings["port of results"].verdict == "good" and "serve" in findings["worker"].advice


def test_what_is_missing_is_named_with_what_to_do(settings, tmp_path):
    wrong = settings.model_copy(update={"model": "saxs9d", "device": "cuda:77"})
    findings = by_subject(examine(Patient(wrong, tmp_path / "nothing.dat", tango_host="127.0.0.1:1")))
    for subject in ("GPU", "geometry", "model", "Tango database"):
        assert findings[subject].verdict == "bad", subject
    assert "saxs9d" in findings["model"].found and "127.0.0.1:1" in findings["Tango database"].found
    assert worst(list(findings.values())) == 1
    assert all(finding.advice for finding in findings.values() if finding.verdict == "bad")


@pytest.mark.parametrize(
    "poni_px, verdict", [((20.0, 30.0), "good"), ((20.0, 90.0), "doubtful"), ((-3.0, 30.0), "doubtful")]
)
def test_a_beam_outside_the_frame_is_doubtful(poni_px, verdict):
    made = DetectorGeometry(1e-10, 2.0, (1e-4, 1e-4), tuple(1e-4 * p for p in poni_px))
    assert doctor.geometry(Frame(np.ones((40, 60)), made)).verdict == verdict


def test_a_scan_whose_frames_lie_in_another_way_than_its_positions(tmp_path):
    scan = simulate()
    counts, _, places = (part.numpy() for part in scan.exposures)
    stored = ORIENTATIONS["flip-columns"].image(counts, centre=24)
    path = tmp_path / "scan.npz"
    np.savez(path, data=stored, positions_px=places, probe=scan.probe.numpy(), centred=1)
    wrong = by_subject(doctor.measured(Patient(WorkerSettings(), path))[1])["orientation"]
    assert wrong.verdict == "bad" and "--orientation flip-columns" in wrong.found and wrong.advice
    turned = Patient(WorkerSettings(), path, {"orientation": "flip-columns"})
    assert by_subject(doctor.measured(turned)[1])["orientation"].verdict == "good"
    alone = doctor.orientation([Frame(np.ones((4, 4)), DetectorGeometry(1e-10, 2.0, (1e-4, 1e-4), (0, 0)))])
    assert alone.verdict == "not checked" and alone.advice


def test_a_frame_that_the_model_was_not_made_for(settings, tmp_path):
    """Noise alone: bad, with why and what to do."""
    q = np.linspace(0.01, 0.3, 100)
    noise = np.random.default_rng(1).normal(size=q.size)
    np.savetxt(tmp_path / "noise.dat", np.stack([q, 1e3 + 1e3 * noise, np.full(q.size, 1.0)], axis=1))
    patient = Patient(settings.model_copy(update={"model": "saxs1d-pr"}), tmp_path / "noise.dat")
    findings = by_subject(examine(patient))
    assert findings["model range"].verdict == "bad" and findings["model range"].advice
    assert all(finding.advice for finding in findings.values() if finding.verdict == "bad")


def test_masks():
    q, counts = CurveGeometry(np.linspace(0.01, 0.3, 10)), np.full(10, 5.0)
    most = np.arange(10) < 8
    assert doctor.mask(Frame(counts, q)).verdict == "good"
    assert "inverted" in doctor.mask(Frame(counts, q, mask=most)).advice
    assert doctor.mask(Frame(0 * counts, q)).verdict == "bad"
    image = np.ones((50, 50))
    image[3, 4] = 1e7
    made = DetectorGeometry(1e-10, 2.0, (1e-4, 1e-4), (1e-3, 1e-3))
    assert "hot" in doctor.mask(Frame(image, made)).advice


def test_a_catalog_from_the_command_line_is_checked_as_one_in_the_settings(settings):
    with pytest.raises(TransportError, match="TILED_API_KEY") as refused:
        with_model(settings, None, "https://tiled.example?api_key=s3cret")
    assert "s3cret" not in str(refused.value)
    assert with_model(settings, "saxs1d-pr", None).catalog == settings.catalog
