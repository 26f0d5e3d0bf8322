import importlib.util
import socket
from pathlib import Path

import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, DetectorGeometry, Frame
from nfphasing_bluesky.streaming.settings import WorkerSettings
from nfphasing_bluesky.views import doctor
from nfphasing_bluesky.views.doctor import Patient, examine, worst


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


def test_a_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        settings = WorkerSettings(results=taken)
        findings = by_subject(doctor.ports(settings.model_copy(update={"control": "ipc:///tmp/nobody-here"})))
    assert findings["port of results"].verdict == "bad" and "results" in findings["port of results"].advice


@pytest.mark.parametrize(
    "poni_px, verdict", [((20.0, 30.0), "good"), ((20.0, 90.0), "doubtful"), ((-3.0, 30.0), "doubtful")]
)
def test_a_beam_outside_the_frame_is_doubtful(poni_px, verdict):
    made = DetectorGeometry(1e-10, 2.0, (1e-4, 1e-4), tuple(1e-4 * p for p in poni_px))
    assert doctor.geometry(Frame(np.ones((40, 60)), made)).verdict == verdict


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
