"""Whole scans of known objects: what sweeps make of the object, the positions and a background."""

import pytest
import torch

from nfphasing_bluesky.core import FrameError, GeometryError, SettingsError
from nfphasing_bluesky.physics.imaging.whole_scan import Sweeps, sweep_scan
from tests.simulated_scan import FAR, NEAR, SIDE, simulate


def order(seed=0):
    return torch.Generator().manual_seed(seed)


def lit(scan, found):
    """Phases of the object and of what was found, where the middle frames have light."""
    top, left = found.origin.tolist()
    rows, columns = slice(24, 70), slice(24, 70)
    one = found.image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    other = scan.image[rows, columns]
    return tuple((wave * wave.sum().conj()).angle().flatten() for wave in (one, other))


@pytest.fixture(scope="module", params=[FAR, NEAR], ids=["far", "near"])
def case(request):
    return request.param, simulate(request.param)


def test_the_object_and_the_misfit(case):
    propagation, scan = case
    told = []
    found = sweep_scan(
        scan.exposures, scan.probe, propagation, Sweeps(12), order(), after=lambda *row: told.append(row)
    )
    assert [number for number, _ in told] == list(range(1, 13)) and told[-1][1] < told[0][1] / 4
    assert float(found.misfit.median()) < 2.5
    phases = torch.stack(lit(scan, found))
    assert float(torch.corrcoef(phases)[0, 1]) > 0.97
    assert torch.equal(found.probe, scan.probe)
    torch.testing.assert_close(found.position, scan.exposures.position)


def test_batches_come_to_the_same(case):
    propagation, scan = case
    found = sweep_scan(scan.exposures, scan.probe, propagation, Sweeps(12, batch=6), order())
    assert float(torch.corrcoef(torch.stack(lit(scan, found)))[0, 1]) > 0.96


def test_a_seed_repeats_and_a_start_goes_on():
    scan = simulate()
    twice = [sweep_scan(scan.exposures, scan.probe, FAR, Sweeps(2), order()) for _ in range(2)]
    assert torch.equal(twice[0].image, twice[1].image)
    generator = order()
    first = sweep_scan(scan.exposures, scan.probe, FAR, Sweeps(1), generator)
    kept = first.image.clone()
    second = sweep_scan(scan.exposures, scan.probe, FAR, Sweeps(1), generator, first)
    assert torch.equal(second.image, twice[0].image) and torch.equal(first.image, kept)


def test_positions_are_found(case):
    propagation, scan = case
    error = 0.7 * torch.randn(49, 2, generator=order(5), dtype=torch.float64)
    error -= error.mean(0)
    wrong = scan.exposures._replace(position=scan.exposures.position + error)
    found = sweep_scan(wrong, scan.probe, propagation, Sweeps(25, batch=4, positions_from=3), order())
    left = found.position - scan.exposures.position
    left -= left.mean(0)
    before, after = (float(e.square().sum(1).mean().sqrt()) for e in (error, left))
    assert before > 0.8 and after < 0.4 * before
    blind = sweep_scan(wrong, scan.probe, propagation, Sweeps(25, batch=4), order())
    assert float(found.misfit.median()) < 0.7 * float(blind.misfit.median())


def test_a_background_is_found(case):
    propagation, _ = case
    scan = simulate(propagation, background=20.0)
    found = sweep_scan(scan.exposures, scan.probe, propagation, Sweeps(15, background=True), order())
    assert float(found.background.mean()) == pytest.approx(20, rel=0.15)
    without = sweep_scan(scan.exposures, scan.probe, propagation, Sweeps(15), order())
    assert float(found.misfit.median()) < 0.5 * float(without.misfit.median())


def test_masked_pixels_say_nothing():
    scan = simulate()
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[:, 22:24] = True
    spoilt = scan.exposures.counts.clone()
    spoilt[:, mask] = 1e6
    found = [
        sweep_scan(scan.exposures._replace(counts=counts, mask=mask), scan.probe, FAR, Sweeps(2), order())
        for counts in (scan.exposures.counts, spoilt)
    ]
    assert torch.equal(found[0].image, found[1].image)


def test_what_cannot_be():
    scan = simulate()
    with pytest.raises(FrameError, match="do not match the probe"):
        sweep_scan(scan.exposures, scan.probe[:, :8, :8], FAR, Sweeps(1), order())
    far_away = scan.exposures.position.clone()
    far_away[0] = 1e6
    with pytest.raises(GeometryError, match="positions span"):
        sweep_scan(scan.exposures._replace(position=far_away), scan.probe, FAR, Sweeps(1), order())
    with pytest.raises(SettingsError, match="0 < a <= 1"):
        Sweeps(1, regularisation=0)
