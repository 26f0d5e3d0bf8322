"""`nfphasing train` and `evaluate`: resume after SIGINT, refusals, the certificate."""

import csv
import math

import torch
from safetensors.torch import load_file

from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.models import load
from nfphasing_bluesky.training import Trainer, TrainSettings
from tests.cli.conftest import STEPS, TRAIN

PROGRESS = "seconds"
CERTIFICATE = {
    "frames",
    "hardware",
    "date",
    "settings",
    "information_gain_nats",
    "reduced_chi2_median",
    "milliseconds_per_frame",
    "classes",
    "worst_sbc_ks",
    "worst_tarp_deviation",
    "coverage_68",
    "coverage_95",
}
OF_A_CLASS = {"frames", "parameters", "tarp_deviation", "ess_fraction_median", "ess_fraction_q10"}


def test_sigint_saves_and_a_second_one_ends_at_once(trained):
    assert 2 <= trained.steps_before < STEPS
    assert f"interrupted after step {trained.steps_before} of {STEPS}" in trained.interrupted.err
    assert trained.interrupted.status not in (0, 2)
    assert "Traceback" not in trained.interrupted.err


def test_the_same_command_finishes_the_run(trained):
    done = trained.finished
    assert done.status == 0, done.err
    result = done.json
    assert (result["steps"], result["of_steps"], result["seed"]) == (STEPS, STEPS, 3)
    assert result["model"] == str(trained.folder / "model")
    stored = load(result["model"])
    assert stored.card.sha256 == result["sha256"] and stored.card.training["steps"] == STEPS
    with open(result["learning_curve"], "rb") as figure:
        assert figure.read(8) == b"\x89PNG\r\n\x1a\n"
    with (trained.folder / "learning_curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert all(math.isfinite(float(row["nll"])) for row in rows)
    assert any(math.isfinite(float(row["physics_misfit"])) for row in rows)


def test_the_resumed_run_is_the_one_that_nobody_interrupted(trained, tmp_path):
    settings = TrainSettings(steps=STEPS, batch=8, seed=3)
    trainer = Trainer(modality("saxs1d-particles"), settings, "cpu")
    trainer.prepare()
    trainer.run(tmp_path)
    ours, theirs = (load_file(folder / "checkpoint.safetensors") for folder in (tmp_path, trained.folder))
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if name != PROGRESS and not torch.equal(ours[name], theirs[name])]
    assert not differing


def test_settings_that_contradict_the_checkpoint_are_refused(nfphasing, trained):
    before = (trained.folder / "checkpoint.safetensors").stat().st_mtime_ns
    for changed in (("--steps", "50"), ("--batch", "16"), ("--seed", "4"), ("--physics-weight", "0")):
        done = nfphasing(*TRAIN, *changed, "--output", trained.folder)
        assert done.status == 1, changed
        assert "SettingsError" in done.err and f"{changed[0]} " in done.err
    done = nfphasing("train", "saxs1d-pr", "--output", trained.folder)
    assert done.status == 1 and "modality=" in done.err
    assert (trained.folder / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_any_setting_of_a_run_can_be_set(nfphasing, trained, tmp_path):
    done = nfphasing(*TRAIN, "--set", "clip=2.5", "--set", "average=0.9", "--output", trained.folder)
    assert done.status == 1 and "clip=5.0, asked for 2.5" in done.err
    for folder in (trained.folder, tmp_path / "run"):
        done = nfphasing("train", "saxs1d-pr", "--set", "compnions=16", "--output", folder)
        assert done.status == 1 and "compnions=16 is no setting" in done.err and "companions" in done.err
    done = nfphasing("train", "saxs1d-pr", "--set", "companions=many", "--output", tmp_path / "run")
    assert done.status == 1 and "companions='many'" in done.err
    assert not (tmp_path / "run").exists()


def test_a_modality_that_does_not_exist(nfphasing, tmp_path):
    done = nfphasing("train", "telepathy", "--output", tmp_path / "run")
    assert done.status == 1 and "telepathy" in done.err and "saxs1d-pr" in done.err
    assert not (tmp_path / "run").exists()


def test_the_certificate(nfphasing, trained):
    card = trained.folder / "model" / "card.json"
    before = card.read_bytes()
    arguments = ("evaluate", trained.folder / "model", "--frames", "100", "--n-samples", "100")
    done = nfphasing(*arguments, "--device", "cpu", "--json", "--write")
    assert done.status == 0, done.err
    figures = done.json
    assert figures["frames"] == 100
    assert set(figures) >= CERTIFICATE, CERTIFICATE - set(figures)
    assert set(figures["classes"]) == {"sphere", "core_shell_sphere", "ellipsoid", "cylinder"}
    assert all(set(c) >= OF_A_CLASS for c in figures["classes"].values())
    assert sum(c["frames"] for c in figures["classes"].values()) == 100
    assert {"radius_angstrom", "polydispersity"} <= set(figures["classes"]["sphere"]["parameters"])
    assert card.read_bytes() != before
    assert load(trained.folder / "model").card.metrics["frames"] == 100
