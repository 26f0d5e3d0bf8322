"""Anchors of p(r) from a scan of sizes, and the posterior they lead to, without any network."""

from dataclasses import replace

import pytest
import torch

from nfphasing_bluesky.flows import Box
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.models import load
from nfphasing_bluesky.training.rounds import simulate_usable

N, TRIES = 60, 300


@pytest.fixture(scope="module")
def subject():
    return modality("saxs1d-pr", None, load("saxs1d-pr").part("prior"))


@pytest.fixture(scope="module")
def scanned(subject):
    batch, draws, truth = simulate_usable(subject, N, torch.Generator().manual_seed(9))
    return batch, draws, truth, subject.anchors(batch).get(0, torch.arange(len(batch)))


@pytest.fixture(scope="module")
def box(subject):
    (spec,) = subject.classes
    return Box(torch.tensor(spec.lower), torch.tensor(spec.upper)).double()


def test_the_truth_lies_within_the_anchors(scanned, box):
    batch, draws, _, anchor = scanned
    y, _ = box(draws.theta.double(), draws.theta)
    pull, _ = anchor.standardise(y)
    assert float((pull.abs() < 2).double().mean()) > 0.88
    assert float(pull[:, [0, 3]].abs().median()) == pytest.approx(0.67, abs=0.25)
    # far narrower than the prior, or a fit would not be worth it
    assert float(anchor.factor[:, 0, 0].median()) < 0.3
    assert float(anchor.factor[:, 3, 3].median()) < 0.1


def test_an_anchor_follows_the_scale_and_nothing_else_does(subject, scanned):
    batch, _, _, anchor = scanned
    louder = replace(batch, intensity=batch.intensity * 512, sigma=batch.sigma * 512)
    moved = subject.anchors(louder).get(0, torch.arange(len(batch)))
    torch.testing.assert_close(moved.location[:, :3], anchor.location[:, :3], atol=1e-4, rtol=1e-3)
    shift = moved.location[:, 3] - anchor.location[:, 3]
    torch.testing.assert_close(shift, torch.full_like(shift, 512.0).log(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.features, anchor.features, atol=2e-3, rtol=1e-3)


def test_an_anchor_does_not_depend_on_its_batch(subject, scanned):
    batch, _, _, anchor = scanned
    alone = subject.anchors(batch).get(0, torch.tensor([7]))
    torch.testing.assert_close(alone.location[0], anchor.location[7], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.factor[0], anchor.factor[7], atol=1e-4, rtol=1e-3)


def test_importance_weighted_proposals_from_the_anchor_are_calibrated(subject, scanned, box):
    """Simulation, evidence and prior belong together: no network takes part."""
    batch, draws, truth, anchor = scanned
    generator = torch.Generator().manual_seed(1)
    ranks = {name: [] for name in ("rg_angstrom", "d_max_angstrom", "i0", "background")}
    for i in range(len(batch)):
        one = batch.at(torch.tensor([i]))
        z = 1.5 * torch.randn(TRIES, 4, generator=generator, dtype=torch.float64)
        y = anchor.location[i].double() + z @ anchor.factor[i].double().T
        theta, log_det = box.inverse(y, y)
        nothing = torch.zeros(TRIES, dtype=torch.long)
        tried = Draws(nothing, theta, nothing)
        noise = torch.randn(TRIES, subject.noise_columns, generator=generator)
        evaluated = subject.evaluate(tried, one, noise)
        log_w = (
            evaluated.log_likelihood + subject.log_prior(tried) + log_det + 0.5 * (z / 1.5).square().sum(1)
        )
        weight = torch.softmax(log_w, 0)
        reported = subject.report(tried, evaluated.nuisance)
        for name, values in ranks.items():
            values.append(float((weight * (reported[name] < truth[name][i])).sum()))
    for name, values in ranks.items():
        found = torch.tensor(values)
        inside = ((found > 0.025) & (found < 0.975)).double().mean()
        assert float(inside) > 0.85, name
        assert float(found.mean()) == pytest.approx(0.5, abs=0.13), name
        # neither heaped up in the middle nor at the ends
        assert float(found.std()) == pytest.approx(12**-0.5, abs=0.06), name
