"""`nfphasing models`, `serve --check`, `replay`, and what is common to all verbs."""

import json

import pytest

from nfphasing_bluesky.models import read_card, shipped
from nfphasing_bluesky.models.store import SHIPPED


def test_models_as_json_are_the_cards(nfphasing):
    done = nfphasing("models", "--json")
    assert done.status == 0
    models = done.json["models"]
    assert [m["name"] for m in models] == shipped() and {"saxs1d-pr", "saxs1d-particles"} <= set(shipped())
    assert [m["sha256"] for m in models] == [read_card(SHIPPED / name).sha256 for name in shipped()]


def test_models_as_a_table(nfphasing, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = nfphasing("models")
    assert done.status == 0
    assert all(name in done.out and read_card(SHIPPED / name).sha256[:12] in done.out for name in shipped())


def test_serve_prints_its_settings(nfphasing, tmp_path):
    (tmp_path / "worker.toml").write_text(
        'model = "saxs1d-pr"\n[stream]\ndata_key = "pilatus"\npolicy = "latest"\n[reconstruction]\nseed = 7\n'
    )
    from_file = nfphasing("serve", tmp_path / "worker.toml", "--check")
    assert from_file.status == 0, from_file.err
    assert from_file.json["model"] == "saxs1d-pr" and from_file.json["reconstruction"]["seed"] == 7
    assert from_file.json["stream"]["policy"] == "latest" and from_file.json["stream"]["queue_size"] == 1024
    again = nfphasing("serve", json.dumps(from_file.json), "--check")
    assert again.status == 0 and again.json == from_file.json
    assert nfphasing("serve", "--check").json["model"] is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ('{"modell": "saxs1d-pr"}', "modell"),
        ('{"stream": {"policy": "hope"}}', "policy"),
        ('{"results": "tcp://0.0.0.0:5555"}', "0.0.0.0"),
        ('{"heartbeat_s": 0}', "heartbeat_s"),
        ("nowhere.toml", "nowhere.toml"),
        ("{", "{"),
    ],
)
def test_serve_refuses_wrong_settings_and_names_them(nfphasing, settings, named):
    done = nfphasing("serve", settings, "--check")
    assert done.status == 1 and done.out == ""
    assert "SettingsError" in done.err and named in done.err and "Traceback" not in done.err


def test_serve_refuses_a_secret_in_its_settings_and_does_not_repeat_it(nfphasing):
    done = nfphasing("serve", '{"catalog": "https://tiled.example?api_key=s3cret"}', "--check")
    assert done.status == 1 and "TILED_API_KEY" in done.err and "s3cret" not in done.err + done.out


def test_replay_of_an_empty_backup_folder(nfphasing, tmp_path):
    (tmp_path / "backup").mkdir()
    done = nfphasing("replay", tmp_path / "backup", "--catalog", tmp_path / "catalog", "--json")
    assert done.status == 0 and done.json == {"runs": []}
    assert "no backup files" in done.err


def test_replay_stores_what_was_kept_and_names_what_it_cannot(nfphasing, tmp_path):
    backup = tmp_path / "backup"
    backup.mkdir()
    start = {"uid": "derived-1", "time": 1.0, "original_run_uid": "raw-1", "raw_uid": "raw-1"}
    stop = {"uid": "stop-1", "run_start": "derived-1", "time": 2.0, "exit_status": "success"}
    lines = [json.dumps({"name": name, "doc": doc}) for name, doc in (("start", start), ("stop", stop))]
    (backup / "derived-1.jsonl").write_text("\n".join(lines) + "\n")
    (backup / "odd.jsonl").write_text(lines[1] + "\n")
    arguments = ("replay", backup, "--catalog", tmp_path / "catalog", "--json")
    done = nfphasing(*arguments)
    assert done.status == 1
    outcomes = {run["run_uid"]: run["outcome"] for run in done.json["runs"]}
    assert outcomes["derived-1"] == "stored" and outcomes["odd"].startswith("failed: ")
    assert [path.name for path in backup.iterdir()] == ["odd.jsonl"]
    (backup / "odd.jsonl").unlink()
    assert nfphasing(*arguments).json == {"runs": []}


def test_help_names_every_verb(nfphasing):
    done = nfphasing("--help")
    assert done.status == 0
    for verb in ("models", "train", "evaluate", "reconstruct", "serve", "replay", "demo"):
        assert verb in done.out
