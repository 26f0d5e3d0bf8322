"""Class probabilities from evidence: they agree with many more draws, and beat the network's guess."""

import math

import pytest
import torch

from nfphasing_bluesky.core import Origin
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.inference.classes import KEPT_OF_GUESS, PILOTS, weigh_classes
from nfphasing_bluesky.modalities.base import ClassSpec
from nfphasing_bluesky.training.rounds import simulate_usable

FRAMES = 60


@pytest.fixture(scope="module")
def subject():
    return Reconstructor.load("saxs1d-particles", "cpu")


@pytest.fixture(scope="module")
def case(subject):
    batch, draws, _ = simulate_usable(subject.modality, FRAMES, torch.Generator().manual_seed(12))
    with torch.no_grad():
        network = subject.network(*subject.modality.context(batch), subject.modality.anchors(batch))
    return batch, draws.label, network


@torch.no_grad()
def weighed(subject, case, pilots, seed=0):
    batch, _, network = case
    shape = (len(batch), len(subject.modality.classes), pilots, subject.modality.width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return weigh_classes(subject.modality, network, batch, noise).class_log_probs.double()


@pytest.fixture(scope="module")
def found(subject, case):
    """Class probabilities as the program finds them."""
    return weighed(subject, case, PILOTS)


def score(log_probs, label):
    return float(log_probs.gather(1, label[:, None]).mean())


def test_they_are_normalised_and_keep_some_of_the_guess(case, found):
    _, _, network = case
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(found), dtype=torch.float64))
    assert (found > network.class_log_probs.double() + math.log(KEPT_OF_GUESS) - 1e-4).all()


def test_few_draws_agree_with_many(subject, case, found):
    many = weighed(subject, case, 4 * PILOTS, seed=1)
    difference = 0.5 * (found.exp() - many.exp()).abs().sum(1)
    assert float(difference.median()) < 0.08
    assert float(difference.quantile(0.9)) < 0.35


def test_they_are_better_than_the_guess(case, found):
    _, label, network = case
    guess = network.class_log_probs.double()
    assert score(found, label) > score(guess, label) + 0.1
    right = (found.argmax(1) == label).double().mean() - (guess.argmax(1) == label).double().mean()
    assert float(right) > 0


def test_a_frame_does_not_depend_on_its_batch(subject, case):
    batch, _, _ = case
    few = batch.at(torch.tensor([5, 9]))
    alone = type(batch)(**{name: value[:1] for name, value in vars(few).items()})
    origins = [Origin(seq_num=i) for i in (5, 9)]
    with torch.no_grad():
        both = subject.condition(few, origins, 0).distribution.class_log_probs[0]
        one = subject.condition(alone, origins[:1], 0).distribution.class_log_probs[0]
    torch.testing.assert_close(both, one, atol=2e-2, rtol=1e-3)


class Known:
    """Draws of class k have likelihood `levels[k]`, prior and flow of unit density."""

    hopeless_nats = 30.0

    def __init__(self, levels):
        self.levels = torch.tensor(levels)
        self.classes = tuple(ClassSpec(str(k), ("x",), (0.0,), (1.0,)) for k in range(len(levels)))
        self.width = 1

    def log_likelihood(self, draws, batch):
        return self.levels[draws.label]

    def log_prior(self, draws):
        return torch.zeros(len(draws))


class Even:
    """Equal guesses, for one frame."""

    def __init__(self, log_probs):
        self.class_log_probs = log_probs

    def of_class(self, k, frames):
        return self

    def from_latent(self, z):
        return z, torch.zeros(z.shape[:-1])

    def with_classes(self, log_probs):
        return Even(log_probs)


class Nothing:
    def at(self, index):
        return self


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, 0.0], [0.5, 0.5]),
        ([0.0, -math.log(9.0)], [0.9 * 0.9 + 0.05, 0.9 * 0.1 + 0.05]),
        ([0.0, -20.0], [0.95, 0.05]),
        ([-7e3, -1e3], [0.0, 1.0]),
    ],
)
def test_what_explains_nothing_is_ruled_out(levels, expected):
    guess = Even(torch.full((1, 2), math.log(0.5)))
    found = weigh_classes(Known(levels), guess, Nothing(), torch.randn(1, 2, 8, 1)).class_log_probs.exp()
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)
