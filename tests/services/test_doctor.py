"""`nfphasing doctor` as a process, beside the real Tango database."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nfphasing_bluesky.clients.registration import register

NFPHASING = Path(sys.executable).with_name("nfphasing")


@pytest.mark.slow
def test_the_verb_finds_the_database_and_its_servers(tango_host, tmp_path):
    register("test/doctor/1", "NfPhasing/doctor", tango_host=tango_host)
    endpoints = {name: f"ipc://{tmp_path}/{name}" for name in ("documents", "results", "control")}
    (tmp_path / "worker.json").write_text(json.dumps({**endpoints, "catalog": str(tmp_path / "catalog")}))

    def doctor(*more, **environment):
        done = subprocess.run(
            [NFPHASING, "doctor", "--settings", tmp_path / "worker.json", "--json", *more],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert "Traceback" not in done.stderr, done.stderr
        findings = json.loads(done.stdout)["findings"]
        assert all(finding["advice"] for finding in findings if finding["verdict"] == "bad")
        return done, {finding["subject"]: finding for finding in findings}

    done, findings = doctor()
    assert done.returncode == 0, done.stderr
    assert findings["Tango database"]["verdict"] == "good"
    assert "NfPhasing/doctor" in findings["Tango database"]["found"]
    assert (
        "good  Tango database: it answers" in done.stderr and "-> nfphasing serve starts one" in done.stderr
    )
    assert not (tmp_path / "catalog").exists()

    done, findings = doctor("--tango-host", "127.0.0.1:1", "--model", "saxs9d", tmp_path / "nothing.dat")
    assert done.returncode == 1
    bad = {subject for subject, finding in findings.items() if finding["verdict"] == "bad"}
    assert bad == {"geometry", "model", "Tango database"}
