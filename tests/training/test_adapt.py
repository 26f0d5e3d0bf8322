"""A small model of ptychography, adapted to the frames of a scan under one probe."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nfphasing_bluesky.cli import app
from nfphasing_bluesky.core import FrameError, SettingsError
from nfphasing_bluesky.core.neighbours import with_neighbours
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import Draws, modality, ptychography
from nfphasing_bluesky.modalities.imaging.patterns import estimate
from nfphasing_bluesky.modalities.imaging.scans import PatchDraws
from nfphasing_bluesky.models import load, read_card
from nfphasing_bluesky.physics.imaging.patches import cut
from nfphasing_bluesky.physics.imaging.probes import random_probes
from nfphasing_bluesky.physics.objects import random_objects
from nfphasing_bluesky.physics.ptychography import FarField, expected_intensity
from nfphasing_bluesky.training import (
    AdaptSettings,
    Trainer,
    TrainSettings,
    adapt,
    adaptation,
    export,
    split,
    trainer_for,
)
from nfphasing_bluesky.views import adapting
from nfphasing_bluesky.views.adapting import change_of_misfit, in_words
from nfphasing_bluesky.views.batch import frames_of_files

NETWORK = {
    "encoder": {"widths": [8, 8]},
    "flow": {"flow": "wavelet", "widths": [8, 8], "couplings": 2},
    "tile": 32,
}
FEW = AdaptSettings(batch=4, round_batches=2, reuse=2, physics_batch=2, physics_draws=2)


@pytest.fixture(autouse=True)
def few_reference_frames(monkeypatch):
    """They are most of the time that a short run takes."""
    monkeypatch.setattr(adaptation, "REFERENCE_FRAMES", 50)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A model after two steps."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptychography, "SETTLED", 32)
        patch.setattr(ptychography, "INITIALISED", 32)
        trainer = Trainer(
            modality("ptychography", NETWORK),
            TrainSettings(steps=2, batch=8, round_batches=2, physics_weight=0.0, warmup=1),
        )
        folder = tmp_path_factory.mktemp("parent")
        trainer.run(folder)
        return export(trainer, folder / "model", "small", reference_frames=50)


def write_scan(path):
    """Sixteen frames of 48 x 48 pixels, 6 pixels apart."""
    generator = torch.Generator().manual_seed(4)
    maps = random_objects(1, (72, 72), generator=generator, kinds=["dead leaves"]).maps
    probe = 1e3 * random_probes(1, 48, generator)
    corner = 6 * torch.cartesian_prod(torch.arange(4), torch.arange(4))
    patches = torch.polar(torch.ones_like(maps), -maps).expand(16, -1, -1)
    frames = expected_intensity(cut(patches, corner, (48, 48)), probe[0], FarField())
    counts = torch.poisson(frames, generator=generator)
    np.savez(path, data=counts.numpy(), positions_px=corner.numpy(), probe=probe[0].numpy())
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The frames of a scan."""
    scan = write_scan(tmp_path_factory.mktemp("scan") / "scan.npz")
    subject = modality("ptychography", NETWORK)
    everyone = subject.neighbours
    return subject.collate(frames_of_files([scan], {}, lambda frames: with_neighbours(frames, everyone)), 0.0)


def test_objects_are_measured_like_the_frames(measured):
    subject = modality("ptychography", NETWORK)
    draws = subject.sample_like(measured, 10, torch.Generator().manual_seed(0))
    assert isinstance(draws, PatchDraws)
    scans = len(draws.canvas)
    assert scans == 2 and draws.scan.tolist() == 6 * [0] + 4 * [1]
    assert torch.equal(draws.conditions.probe, measured.probe[:1].expand(scans, -1, -1, -1))
    offsets = {tuple(o.flatten().tolist()) for o in measured.offset}
    assert {tuple(o.flatten().tolist()) for o in draws.conditions.offset} <= offsets
    assert len(draws.theta.unique(dim=0)) == 10


def test_parts_of_larger_frames_have_their_surroundings(measured):
    subject = modality("ptychography", NETWORK)
    part = subject.parts(measured, torch.Generator().manual_seed(0))
    assert part.channels.shape[-2:] == (32, 32)
    assert part.intensity.shape == measured.intensity.shape
    # with the estimate put in its place the frame is that of the whole estimate
    index = torch.arange(len(measured))
    zeros = torch.zeros_like(index)
    whole, cut_out = estimate(measured), estimate(part)
    one = subject.forward(Draws(zeros, whole.flatten(1), index), measured)
    other = subject.forward(Draws(zeros, cut_out.flatten(1), index), part)
    torch.testing.assert_close(one, other)
    assert torch.equal(subject.parts(part, torch.Generator()).corner, part.corner)


@pytest.mark.slow
def test_what_the_model_learns_of_a_scan(parent, measured, tmp_path):
    learnt, held = split(measured)
    assert (len(learnt), len(held)) == (14, 2)
    trainer = trainer_for(parent, learnt, FEW, "cpu")
    trainer.settings = trainer.settings.model_copy(update={"steps": 4})
    logs = []
    found = adapt(parent, trainer, tmp_path, logs.append)
    card = read_card(found.folder)
    assert card.parent == parent.card.sha256
    assert card.name == "small-adapted"
    assert card.thresholds.chi2_alarm == parent.card.thresholds.chi2_alarm
    # every second step looked at the measured frames
    assert [log.physics_misfit == log.physics_misfit for log in logs] == [False, False, True, False]
    before, after = parent.part("network"), load(found.folder).part("network")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_images_learn_from_unlabelled_frames_only_when_they_were_measured():
    with pytest.raises(SettingsError, match="simulated frames teach"):
        Trainer(modality("ptychography", NETWORK), TrainSettings(physics_weight=0.1))


def test_too_few_frames(measured):
    with pytest.raises(FrameError, match="at least 4"):
        split(measured.at(torch.arange(3)))


def run(*arguments):
    """What the command line prints as JSON, and what it says."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def quick(monkeypatch):
    """As many steps as fit into 0.6 s, of few frames each."""
    monkeypatch.setattr(adapting, "AdaptSettings", lambda: FEW)


@pytest.mark.slow
def test_the_verb_compares_on_frames_that_were_held_out(parent, tmp_path, quick):
    scan = write_scan(tmp_path / "scan.npz")
    asked = ("--model", parent.folder, "--minutes", "0.01", "--output", tmp_path / "run")
    figures, said = run("adapt", scan, *asked)
    assert figures["steps"] >= 1 and figures["held_out_frames"] == 2
    for when in ("before", "after"):
        assert figures[when]["reduced_chi2_median"] > 0
    assert "2 frames that were held out" in said
    ratio = figures["after"]["reduced_chi2_median"] / figures["before"]["reduced_chi2_median"]
    assert figures["reduced_chi2_ratio"] == pytest.approx(ratio, rel=0.1)
    assert ("keep small" in said) is (not figures["improved"])
    assert Path(figures["learning_curve"]).read_bytes().startswith(b"\x89PNG")
    card = read_card(Path(figures["model"]))
    assert card.parent == parent.card.sha256 == figures["parent"]
    assert card.training["held_out"]["after"] == figures["after"]
    assert Reconstructor.load(figures["model"]).info.name == "small-adapted"


def test_only_what_is_no_chance_is_called_better():
    before = np.array([2.0, 40.0, 1.1, 3.0])
    better = change_of_misfit(before, before * np.array([0.8, 0.82, 0.79, 0.81]))
    assert better.improved and better.ratio == pytest.approx(0.805, abs=0.002)
    assert better.error == pytest.approx(np.std(np.log([0.8, 0.82, 0.79, 0.81]), ddof=1) / 2)
    assert "better" in in_words(better, "parent") and "keep" not in in_words(better, "parent")
    chance = change_of_misfit(before, before * np.array([0.5, 1.9, 0.6, 0.9]))
    assert chance.ratio < 1 and not chance.improved and "keep parent" in in_words(chance, "parent")
    assert not change_of_misfit(before[:1], 0.1 * before[:1]).improved


@pytest.mark.slow
def test_a_scan_is_reconstructed_with_a_model_adapted_to_it(parent, tmp_path, quick):
    scan = write_scan(tmp_path / "scan.npz")
    asked = ("--model", parent.folder, "--adapt", "0.01", "--n-samples", "4", "--output", tmp_path / "out")
    (result,) = run("reconstruct", scan, *asked)[0]["results"]
    assert result["model"] == "small-adapted" and result["object"]["stitched"] == 16
    adapted = read_card(tmp_path / "out" / f"{parent.folder.name}-adapted" / "model")
    assert adapted.parent == parent.card.sha256 and adapted.training["adapted_to"] == 14
    with h5py.File(result["output"]) as file:
        assert file["entry/process/model_sha256"].asstr()[()] == adapted.sha256
