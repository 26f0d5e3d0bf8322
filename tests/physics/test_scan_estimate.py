"""What groups of frames say of their patches: the smooth maximum against the projections it starts from."""

import pytest
import torch

from nfphasing_bluesky.physics.imaging.overlap import Group
from nfphasing_bluesky.physics.imaging.scan_estimate import Effort, PatchEstimate, estimate_scans, gauge
from nfphasing_bluesky.physics.noise import poisson_counts
from tests.physics.test_overlap import FAR, NEAR, error, scan

EFFORT = Effort(sweeps=6, rounds=3, steps=8)


def estimate_patches(group: Group, propagation, effort: Effort) -> PatchEstimate:
    """Of the first frames of all groups."""
    rows, found = zip(*estimate_scans(group, propagation, effort), strict=True)
    assert torch.equal(torch.cat(rows), torch.arange(len(group.counts)))
    return PatchEstimate.joined([scans.patches(0) for scans in found])


def noisy(group: Group, share: float) -> Group:
    """The group at a share of its photons, counted."""
    counts = poisson_counts(share * group.counts.clamp_min(0), torch.Generator().manual_seed(7))
    return group._replace(counts=counts, probe=group.probe * share**0.5)


@pytest.mark.parametrize("propagation", [FAR, NEAR], ids=["far", "near"])
@pytest.mark.parametrize("photons", [1e5, 1e7])
def test_smooth_objects_are_closer_than_projections(propagation, photons):
    group, truth = scan(propagation)
    found = estimate_patches(noisy(group, photons / 1e8), lambda _: propagation, EFFORT)
    swept, _, last = (error(patch, truth, found.light) for patch in found.patches)
    assert float((last / swept).median()) < 0.9
    assert float((last / swept).max()) < 1.05


def test_without_light_nothing_is_claimed():
    group, _ = scan(FAR)
    found = estimate_patches(noisy(group, 1e-7), lambda _: FAR, EFFORT)
    assert float(found.patches[0].angle().std()) > 3 * float(found.patches[-1].angle().std())


def test_the_mean_transmission_is_real():
    group, _ = scan(FAR)
    found = estimate_patches(group, lambda _: FAR, EFFORT)
    for patch in found.patches:
        assert float(gauge(patch, found.light).abs().max()) < 1e-3


def test_groups_do_not_depend_on_who_is_estimated_with_them(monkeypatch):
    group, _ = scan(NEAR)
    together = estimate_patches(group, lambda _: NEAR, EFFORT)
    monkeypatch.setattr("nfphasing_bluesky.physics.imaging.scan_estimate.VALUES_AT_ONCE", 1)
    asked = []
    alone = estimate_patches(group, lambda rows: asked.append(rows.tolist()) or NEAR, EFFORT)
    assert asked == [[0], [1], [2], [3]]
    torch.testing.assert_close(alone.patches[-1], together.patches[-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone.misfit, together.misfit, rtol=1e-2, atol=1e-2)


def test_noise_that_is_Poisson_s_fits():  # noqa: N802
    group, _ = scan(FAR)
    short, long = (estimate_patches(noisy(group, 1e-3), lambda _: FAR, Effort(n, n, n)) for n in (2, 8))
    assert (long.misfit < short.misfit + 1e-3).all()
    assert float(long.misfit.max()) < 1.2
