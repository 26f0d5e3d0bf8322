"""The training loop: it learns, it resumes exactly, and it stores no pickle."""

import csv

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.training import Trainer, TrainSettings, checkpoint, export
from nfphasing_bluesky.training.loop import slow_bfloat16
from nfphasing_bluesky.training.losses import physics

NETWORK = {
    "encoder": {"width": 32, "blocks": 1, "context": 16},
    "flow": {"layers": 2, "hidden": 16, "head_hidden": 16, "head_blocks": 0},
}


def make(steps: int = 6, **changes) -> Trainer:
    settings = TrainSettings(
        **{
            "steps": steps,
            "batch": 16,
            "warmup": 2,
            "round_batches": 2,
            "reuse": 2,
            "physics_batch": 4,
            "physics_draws": 2,
            "physics_every": 2,
        }
        | changes
    )
    trainer = Trainer(modality("saxs1d-particles", NETWORK), settings)
    trainer.prepare()
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.network.state_dict(), **{f"average.{k}": v for k, v in trainer.average.items()}}


def test_resuming_gives_the_same_weights_bit_by_bit(tmp_path):
    whole = make()
    whole.run(tmp_path / "whole")
    killed = make()
    killed.run(tmp_path / "killed", stop=lambda: killed.step == 3)
    resumed = make()
    checkpoint.restore(resumed, tmp_path / "killed")
    assert resumed.step == 3
    resumed.run(tmp_path / "killed")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    curves = [
        [
            row["nll"]
            for row in csv.DictReader((tmp_path / folder / checkpoint.CURVE).read_text().splitlines())
        ]
        for folder in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 6


def test_a_few_steps_learn_something():
    trainer = make(40, batch=64, reuse=8, learning_rate=5e-3, physics_weight=0.0)
    log: list[float] = []
    trainer.run(report=lambda step: log.append(step.nll))
    assert sum(log[-10:]) / 10 < sum(log[:10]) / 10 - 0.5


def test_physics_loss_alone_pulls_draws_to_the_data():
    trainer = make(1, batch=2, physics_batch=16, physics_draws=4)
    generator = torch.Generator().manual_seed(5)
    draws = trainer.modality.sample_prior(16, generator)
    batch, _ = trainer.modality.simulate(draws, generator)
    context, anchors = trainer.modality.context(batch), trainer.modality.anchors(batch)
    optimiser = torch.optim.Adam(trainer.network.parameters(), lr=5e-3)
    values = []
    for _ in range(50):
        term = physics(trainer.modality, trainer.network(*context, anchors), batch, 4, generator)
        optimiser.zero_grad()
        term.loss.backward()
        optimiser.step()
        values.append(float(term.loss.detach()))
    assert sum(values[-10:]) < sum(values[:10]) - 1.0


def test_lambda_is_ramped_from_zero():
    trainer = make(100, physics_weight=0.2, physics_ramp=0.5)
    assert trainer.physics_weight() == 0.0
    trainer.step = 25
    assert trainer.physics_weight() == pytest.approx(0.1)
    trainer.step = 90
    assert trainer.physics_weight() == pytest.approx(0.2)


def test_one_class_can_be_trained_alone(tmp_path, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("nfphasing_bluesky.training.export"), "REFERENCE_FRAMES", 500)
    first = make(2)
    first.run()
    export(first, tmp_path / "first")
    second = make(3, start=str(tmp_path / "first"), only="ellipsoid", batch=8)
    before = {name: value.clone() for name, value in second.network.state_dict().items()}
    assert all(torch.equal(value, first.average[name]) for name, value in before.items())
    second.run()
    changed = {n for n, v in second.network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed and all(name.startswith("mixture.flows.2.") for name in changed)


def test_an_unknown_class_names_those_there_are():
    with pytest.raises(SettingsError, match="core_shell_sphere, ellipsoid"):
        make(only="cube")


def test_exported_model_loads_and_runs(tmp_path, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("nfphasing_bluesky.training.export"), "REFERENCE_FRAMES", 500)
    trainer = make()
    trainer.run(tmp_path)
    stored = export(trainer, tmp_path / "model")
    reconstructor = Reconstructor.load(tmp_path / "model", "cpu")
    generator = torch.Generator().manual_seed(0)
    draws = trainer.modality.sample_prior(4, generator)
    batch, _ = trainer.modality.simulate(draws, generator)
    first = trainer.modality.network()
    first.load_state_dict(trainer.average)
    with torch.no_grad():
        anchors = trainer.modality.anchors(batch)
        context = trainer.modality.context(batch)
        expected = first.eval()(*context, anchors).log_prob(draws)
        assert torch.allclose(reconstructor.network(*context, anchors).log_prob(draws), expected)
    assert stored.card.training["settings"]["seed"] == trainer.settings.seed
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert not [n for n in names if n.endswith((".pt", ".pth", ".pkl"))]


@pytest.mark.parametrize(("capability", "half"), [("AVX2", False), ("AVX512", True)])
def test_bfloat16_is_left_to_processors_that_compute_it(monkeypatch, capability, half):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert make(bfloat16=True).settings.bfloat16 is half  # and so says the card
    assert not slow_bfloat16(torch.device("cuda"))
