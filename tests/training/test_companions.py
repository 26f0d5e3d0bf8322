"""Companions of an object are draws of the exact posterior, whatever they were proposed from."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.training import Trainer, TrainSettings, export
from nfphasing_bluesky.training.companions import CHOSEN, companions
from nfphasing_bluesky.training.rounds import Round, RoundFrames, simulate_round

N, ERROR = 20_000, 0.5


@dataclass
class Measured:
    """Numbers measured with an error."""

    value: torch.Tensor

    def at(self, index):
        return Measured(self.value[index])


class Line:
    """One number theta, prior standard normal: the posterior is known."""

    classes = (SimpleNamespace(free=("theta",)),)
    width = 1

    def log_likelihood(self, draws, batch):
        return -0.5 * ((batch.value[draws.frame] - draws.theta[:, 0]) / ERROR).square()

    def log_prior(self, draws):
        return -0.5 * draws.theta[:, 0].square()


class Proposal:
    """A normal distribution that knows nothing of the frame."""

    def __init__(self, mean, width):
        self.normal = torch.distributions.Normal(mean, width)

    def of_class(self, k, rows):
        return self

    def log_prob(self, theta):
        return self.normal.log_prob(theta)[..., 0]

    def from_latent(self, z):
        theta = self.normal.mean + self.normal.stddev * z
        return theta, self.log_prob(theta)


def pulls(count, mean, width):
    """Companions in units of the posterior of their frame."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(N, 1, generator=generator)
    measured = Measured(theta[:, 0] + ERROR * torch.randn(N, generator=generator))
    draws = Draws(torch.zeros(N).long(), theta, torch.arange(N))
    made = companions(Line(), Proposal(mean, width), measured, draws, count, generator)
    precision = 1 + ERROR**-2
    expected = measured.value * ERROR**-2 / precision
    return (made[..., 0] - expected[:, None]) * precision**0.5, made, theta


@pytest.mark.parametrize(("mean", "width"), [(0.0, 1.0), (0.7, 0.2), (-3.0, 0.5)])
def test_they_follow_the_posterior_however_poor_the_proposal(mean, width):
    pull, _, _ = pulls(16, mean, width)
    one = pull[:, 0]
    assert float(one.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(one.std()) == pytest.approx(1.0, abs=0.03)
    inside = (one.abs() < 1.0).double().mean()
    assert float(inside) == pytest.approx(0.6827, abs=0.015)


def test_a_good_proposal_gives_many_and_a_useless_one_the_object_itself():
    _, good, theta = pulls(16, 0.0, 1.0)
    assert good.shape == (N, CHOSEN, 1)
    assert len(good[0, :, 0].unique()) > 3
    _, useless, theta = pulls(16, 60.0, 0.1)
    assert torch.equal(useless[..., 0], theta.expand(-1, CHOSEN))


def settings(**changes):
    small = {"batch": 8, "round_batches": 2, "reuse": 2, "steps": 4, "physics_weight": 0.0}
    return TrainSettings(**small | changes)


def test_a_round_takes_one_or_another_of_them(tmp_path):
    subject = modality("saxs1d-particles")
    asked = settings(companions=6, only="sphere")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = subject.network().eval()
    made = simulate_round(subject, asked, torch.Generator().manual_seed(0), start)
    assert made.companions.shape == (len(made.theta), CHOSEN, subject.width)
    assert bool(torch.isfinite(made.companions).all())
    made.save(tmp_path / "0.safetensors")
    assert torch.equal(RoundFrames.load(tmp_path / "0.safetensors", "cpu").companions, made.companions)
    taken = Round(made, asked, torch.Generator().manual_seed(1))
    for place in range(4):
        theta = taken.take(place).draws.theta
        rows = taken._order[place * 8 : place * 8 + 8]
        assert bool((made.companions[rows] == theta[:, None]).all(2).any(1).all())


def test_they_need_a_model_to_start_from():
    with pytest.raises(SettingsError, match="companions=4 for saxs1d-particles"):
        Trainer(modality("saxs1d-particles"), settings(companions=4))


def test_a_run_with_them_starts_from_its_model_and_learns(tmp_path, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("nfphasing_bluesky.training.export"), "REFERENCE_FRAMES", 500)
    network = {
        "encoder": {"width": 32, "blocks": 1, "context": 16},
        "flow": {"layers": 2, "hidden": 16, "head_hidden": 16, "head_blocks": 0},
    }
    first = Trainer(modality("saxs1d-particles", network), settings())
    first.run()
    export(first, tmp_path / "first")
    second = Trainer(
        modality("saxs1d-particles", network), settings(companions=4, start=str(tmp_path / "first"))
    )
    proposing = {name: value.clone() for name, value in second._start.state_dict().items()}
    second.run()
    assert second.skipped == 0
    assert all(torch.equal(value, second._start.state_dict()[name]) for name, value in proposing.items())
    moved = second.network.state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in proposing.items())
