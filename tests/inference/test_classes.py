"""Class probabilities from evidence: they agree with many more draws, and beat the network's guess."""

import math
from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.core import Origin
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.inference.classes import (
    FEWEST_PILOTS,
    KEPT_OF_GUESS,
    LARGEST_LOSS,
    PILOTS,
    tempered_together,
    weigh_classes,
)
from nfphasing_bluesky.inference.importance import ess_fraction, log_weights
from nfphasing_bluesky.modalities.draws import ClassSpec
from nfphasing_bluesky.training.rounds import simulate_usable

FRAMES = 60
LEFT = 0.5 * KEPT_OF_GUESS * math.exp(-LARGEST_LOSS)
ALMOST_NOTHING = LEFT / (LEFT + 1 - 0.5 * KEPT_OF_GUESS)


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
    alone = few.at(torch.tensor([0]))
    origins = [Origin(seq_num=i) for i in (5, 9)]
    with torch.no_grad():
        both = subject.condition(few, origins, 0).distribution.class_log_probs[0]
        one = subject.condition(alone, origins[:1], 0).distribution.class_log_probs[0]
    torch.testing.assert_close(both, one, atol=2e-2, rtol=1e-3)


def test_the_draws_that_weighed_are_the_first_draws(subject, case):
    """They keep the density that the flow gives them, the class's probability found without each itself."""
    batch, _, _ = case
    few = batch.at(torch.arange(6))
    origins = [Origin(seq_num=i) for i in range(6)]
    with torch.no_grad():
        distribution = subject.condition(few, origins, 0).distribution
        noise = torch.randn(6, 80, 1 + subject.modality.width, generator=torch.Generator().manual_seed(3))
        draws, log_q = distribution.draw(noise)
        behind = (distribution.log_prob(draws) - log_q).double()
    assert float(behind.abs().median()) < 0.1
    # a draw that found its class likely itself was drawn where the others had found it less so
    most = behind[behind.abs().topk(10).indices]
    assert float((most > 0).double().mean()) > 0.7
    assert draws.label.bincount().sum() == 480
    for k, pilots in distribution.pilots.items():
        for row, frame in enumerate(pilots.frames):
            mine = draws.theta[(draws.frame == frame) & (draws.label == k), : pilots.theta.shape[2]]
            shared = min(len(mine), PILOTS)
            assert torch.equal(mine[:shared], pilots.theta[row, :shared])
            assert len(mine.unique(dim=0)) == len(mine)


def test_reused_draws_are_worth_what_fresh_ones_are(subject, case):
    """The effective sample size does not look better for draws that chose their class themselves."""
    batch, _, _ = case
    origins = [Origin(seq_num=i) for i in range(len(batch))]
    noise = torch.randn(
        len(batch), 64, 1 + subject.modality.width, generator=torch.Generator().manual_seed(4)
    )
    sizes = []
    with torch.no_grad():
        distribution = subject.condition(batch, origins, 0).distribution
        for subject_of in (distribution, replace(distribution, pilots={})):
            draws, log_q = subject_of.draw(noise)
            likelihood = subject.modality.log_likelihood(draws, batch)
            weights = log_weights(likelihood, subject.modality.log_prior(draws), log_q)
            sizes.append(float(ess_fraction(weights.view(len(batch), -1)).mean()))
    assert sizes[0] == pytest.approx(sizes[1], abs=0.04)


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

    def prepare(self, wanted):
        """Nothing: its draws need no anchors."""

    def of_class(self, k, frames):
        return self

    def from_latent(self, z):
        return z, torch.zeros(z.shape[:-1])

    def with_classes(self, log_probs, pilots):
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
        ([-7e3, -1e3], [ALMOST_NOTHING, 1 - ALMOST_NOTHING]),
    ],
)
def test_what_explains_nothing_is_all_but_ruled_out(levels, expected):
    guess = Even(torch.full((1, 2), math.log(0.5)))
    found = weigh_classes(Known(levels), guess, Nothing(), torch.randn(1, 2, 8, 1)).class_log_probs.exp()
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


GUESS = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
BOTH = {0: torch.tensor([0]), 1: torch.tensor([0])}


def test_weights_that_agree_are_not_tempered():
    weights = {k: math.log(0.5) + 0.1 * torch.randn(1, 8, dtype=torch.float64) for k in (0, 1)}
    found = tempered_together(weights, BOTH, GUESS)
    for k in (0, 1):
        torch.testing.assert_close(found[k], weights[k])


def test_where_one_draw_has_all_the_weight_the_guess_comes_back():
    """Hundreds of nats between two draws that both explain nothing are no reason to be certain."""
    generator = torch.Generator().manual_seed(1)
    weights = {k: -1e4 * torch.rand(1, 8, dtype=torch.float64, generator=generator) for k in (0, 1)}
    found = tempered_together(weights, BOTH, GUESS)
    together = torch.cat([found[0], found[1]], 1).softmax(1)
    assert float(1 / together.square().sum()) == pytest.approx(FEWEST_PILOTS, rel=1e-3)
    shares = torch.stack([found[k].logsumexp(1) for k in (0, 1)], 1).softmax(1)
    assert 0.05 < float(shares.min())
    certain = torch.stack([weights[k].logsumexp(1) for k in (0, 1)], 1).softmax(1)
    assert float(certain.min()) < 1e-6


def test_a_class_that_alone_explains_stays_certain():
    weights = {0: torch.full((1, 8), -5e3), 1: torch.full((1, 8), -3.0)}
    weights = {k: w.double() - 0.3 * torch.arange(8) for k, w in weights.items()}
    found = tempered_together(weights, BOTH, GUESS)
    shares = torch.stack([found[k].logsumexp(1) for k in (0, 1)], 1).softmax(1)
    assert float(shares[0, 1]) > 1 - 1e-9
