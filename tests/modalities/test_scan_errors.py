"""What simulated scans don't know of themselves."""

from dataclasses import replace

import torch

from nfphasing_bluesky.modalities.imaging.scan_errors import PROBE, ScanErrors, random_errors
from nfphasing_bluesky.modalities.imaging.scans import measure, random_conditions, random_patches
from nfphasing_bluesky.physics.ptychography import wave_intensity

N, SIDE = 400, 32


def test_errors_are_as_large_as_they_say():
    generator = torch.Generator().manual_seed(0)
    conditions = random_conditions(N, SIDE, generator, 4)
    errors = random_errors(conditions, generator)
    wrong, light = wave_intensity(errors.probe).sum((1, 2)), wave_intensity(conditions.probe).sum((1, 2))
    relative = (wrong / light).sqrt()
    right = relative == 0
    assert 0.55 < float(right.float().mean()) < 0.75
    # a smooth error may be larger or smaller where the light is than it is on average
    assert PROBE[0] < float(relative[~right].median()) < PROBE[1]
    assert float(relative.max()) < 8 * PROBE[1]
    there = conditions.present[:, :, None]
    assert float((errors.position * there).sum(1).abs().max()) < 1e-5
    assert float(errors.position.abs().max()) > 0.5
    assert torch.equal(errors.at(torch.tensor([3])).flux, errors.flux[3:4])


def test_frames_are_measured_with_what_is_not_known():
    conditions = random_conditions(N, SIDE, torch.Generator().manual_seed(1), 1)
    draws = random_patches(N, SIDE, conditions, torch.Generator().manual_seed(2))
    right = replace(draws, errors=nothing_wrong(draws.errors))
    wrong, ideal = (measure(d, torch.Generator().manual_seed(3)) for d in (draws, right))
    assert torch.equal(wrong.probe, conditions.probe)
    usual = ideal.counts[:, 0].sum((1, 2))
    more = (wrong.counts[:, 0].sum((1, 2)) - usual) / usual
    # masked pixels don't see it
    background = draws.errors.background * (~draws.conditions.mask).sum((1, 2)) / usual
    known = draws.errors.probe.abs().amax((1, 2, 3)) == 0
    lone = known & (draws.errors.flux[:, 0] == 1) & (background > 0.004) & (usual > 1e5)
    assert int(lone.sum()) > 9
    torch.testing.assert_close(more[lone], background[lone], atol=6e-3, rtol=0.1)
    same = known & (background == 0) & (usual > 1e5)
    assert int((draws.errors.flux[same, 0] != 1).sum()) > 9
    torch.testing.assert_close(more[same], draws.errors.flux[same, 0] - 1, atol=0.012, rtol=0.1)


def nothing_wrong(errors: ScanErrors) -> ScanErrors:
    """Errors of the same shapes that are none."""
    zero = torch.zeros_like
    return ScanErrors(
        zero(errors.position), zero(errors.probe), torch.ones_like(errors.flux), zero(errors.background)
    )
