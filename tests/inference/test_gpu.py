"""Models on a GPU: no tensor is made on the wrong side, and answers are those of the processor."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Failure, Origin, Posterior
from nfphasing_bluesky.inference import Reconstructor, collated
from nfphasing_bluesky.modalities import fits
from nfphasing_bluesky.modalities.layers import reflectivity_fit
from nfphasing_bluesky.models import shipped
from tests.pretend_gpu import GPU, OnGpu, pretend_gpu

DRAWS = 16


def test_the_pretended_gpu_tells_what_a_gpu_would():
    with pretend_gpu():
        there = torch.zeros(3, device=GPU)
        assert there.device == GPU and (there + 1).device == GPU and torch.tensor([1.0], device=GPU).is_cuda
        with pytest.raises(RuntimeError, match=r"add.*expected all tensors on cuda:0"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="index_select"):
            there.index_select(0, torch.arange(2))
        with pytest.raises(TypeError, match="bring it to the processor"):
            there.numpy()
        there[torch.tensor([1])] = 2.0  # indices may come from either side, and numbers
        moved = torch.ones(3).to(there).double()
        assert isinstance(moved, OnGpu) and moved.dtype == torch.float64
        assert (there + 1).cpu().tolist() == [1.0, 3.0, 1.0]
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(3, device="cuda:77")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped()))
def test_answers_are_those_of_the_processor(monkeypatch, name):
    monkeypatch.setattr(fits, "CONVERGED", math.inf)  # a step of a fit shows as much as thirty
    stages = tuple(s._replace(steps=1) for s in reflectivity_fit.FIRST.stages)
    few = reflectivity_fit.FIRST._replace(guesses=(8,) * 6, starts=8, stages=stages)  # and so do eight starts
    monkeypatch.setattr(reflectivity_fit, "FIRST", few)
    monkeypatch.setattr(reflectivity_fit, "THOROUGH", few)
    monkeypatch.setattr(
        reflectivity_fit,
        "STAGES_AGAIN",
        tuple(s._replace(steps=1) for s in reflectivity_fit.STAGES_AGAIN),
    )
    here = Reconstructor.load(name, "cpu")
    generator = torch.Generator().manual_seed(3)
    batch, _ = here.modality.simulate(here.modality.sample_prior(1, generator), generator)
    origins = [Origin(seq_num=1)]
    expected = here.reconstruct(batch, origins, DRAWS)
    with pretend_gpu():
        there = Reconstructor.load(name, "cuda:0")
        assert all(isinstance(p, OnGpu) for p in there.network.parameters())
        found = there.reconstruct(batch, origins, DRAWS)
    for one, other in zip(found, expected, strict=True):
        assert one.trust.ood_score == pytest.approx(other.trust.ood_score, rel=0.01)
        # fits that were cut short fall into another minimum where a last digit differs
        if name != "reflectivity":
            assert np.abs(one.mean - other.mean).mean() <= 0.3 * other.std.mean()


def test_frames_are_sent_ahead_and_filled_up(pair_distance, make_frames, monkeypatch):
    frames = make_frames(pair_distance, 6)
    frames[2] = replace(frames[2], sigma=np.zeros_like(frames[2].sigma))
    monkeypatch.setattr(collated, "PIXELS_AT_ONCE", 3 * frames[0].intensity.size)
    expected = pair_distance(frames, DRAWS)
    with pretend_gpu():
        there = Reconstructor.load(
            "saxs1d-pr", "cuda:0", pair_distance.settings.model_copy(update={"n_samples": DRAWS})
        )
        there.warm_up()
        found = there(frames)
    assert [p.origin for p in found] == [f.origin for f in frames]
    assert isinstance(found[2], Failure) and found[2].reason == expected[2].reason
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Posterior):
            np.testing.assert_allclose(one.mean, other.mean, rtol=1e-3, atol=1e-3 * other.mean.max())


def test_sizes_are_powers_of_two(pair_distance, make_frames):
    frames = make_frames(pair_distance, 5)
    work = collated.collate(frames, pair_distance.modality, pair_distance.info, 0.0)
    full = collated.padded(work)
    assert full.usable == [0, 1, 2, 3, 4, 4, 4, 4] and len(full.batch) == 8
    assert torch.equal(full.batch.intensity[4:], work.batch.intensity[4:].expand(4, -1))
    assert len(collated.padded(full).batch) == 8
