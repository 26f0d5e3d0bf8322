"""Random objects: the contract every kind keeps, the mixture, and phase and absorption."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.physics.objects import (
    KINDS,
    SHARES,
    Absorbing,
    absorbing_maps,
    free_phase_and_absorption,
    phase_and_absorption,
    random_objects,
    two_materials,
)
from nfphasing_bluesky.physics.objects.finish import LARGEST_BLUR_PX, blur, windows

every_kind = pytest.mark.parametrize("name", list(KINDS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_kind
@pytest.mark.parametrize("shape", [(16, 16), (48, 70), (65, 41)])
def test_a_kind_fills_frames_of_any_shape_from_zero_to_one(name, shape):
    maps = KINDS[name].draw(24, shape, seeded())
    assert maps.shape == (24, *shape) and maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert maps.min() >= 0 and maps.max() <= 1
    # no two alike, and none flat
    assert len({tuple(m.flatten().tolist()) for m in maps}) == 24
    assert (maps.std((1, 2)) > 1e-3).float().mean() > 0.9


@every_kind
def test_next_to_no_frame_is_empty(name):
    maps = KINDS[name].draw(200, (64, 64), seeded(9))
    assert (maps.amax((1, 2)) > 0.99).float().mean() >= 0.99
    assert (maps.mean((1, 2)) > 1e-3).float().mean() >= 0.97


@every_kind
def test_same_seed_same_objects(name):
    first, again, other = (KINDS[name].draw(8, (32, 32), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_kind
def test_a_single_object(name):
    assert KINDS[name].draw(1, (32, 32), seeded()).shape == (1, 32, 32)


@every_kind
def test_statistics_do_not_depend_on_the_batch(name):
    draw, generator = KINDS[name].draw, seeded(5)
    one = draw(192, (32, 32), generator).flatten(1)
    many = torch.cat([draw(2, (32, 32), generator) for _ in range(96)]).flatten(1)
    for statistic in (torch.mean, torch.std):
        a, b = statistic(one, 1).numpy(), statistic(many, 1).numpy()
        assert ks_2samp(a, b).pvalue > 1e-3
        # neighbours in a batch know nothing of each other; 4.5 standard errors
        rank = a.argsort().argsort()
        assert abs(np.corrcoef(rank[1:], rank[:-1])[0, 1]) < 4.5 / len(a) ** 0.5


def test_every_kind_shows_up_with_its_share():
    n = 3000
    kind = random_objects(n, (16, 16), generator=seeded(1)).kind
    share = torch.tensor([k.share for k in KINDS.values()])
    assert abs(float(share.sum()) - 1) < 1e-6
    found = torch.bincount(kind, minlength=len(KINDS)) / n
    assert ((found - share).abs() < 4.5 * (share * (1 - share) / n).sqrt()).all()


def test_the_mixture_is_reproducible_and_honours_dtype():
    first = random_objects(40, (32, 40), generator=seeded(2))
    again = random_objects(40, (32, 40), generator=seeded(2), dtype=torch.float64)
    assert first.maps.dtype == torch.float32 and again.maps.dtype == torch.float64
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.to(b.dtype), b)
    assert first.maps.shape == (40, 32, 40)
    assert first.maps.min() >= 0 and first.maps.max() <= 1 and torch.isfinite(first.maps).all()
    assert (first.maps.amax((1, 2)) - 1).abs().max() < 1e-6
    assert random_objects(0, (32, 32), generator=seeded()).maps.shape == (0, 32, 32)


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def test_objects_live_on_the_generators_device(device):
    drawn = random_objects(100, (64, 64), generator=torch.Generator(device).manual_seed(0))
    assert {x.device.type for x in drawn} == {device}
    assert torch.isfinite(drawn.maps).all()


def test_only_chosen_kinds_are_drawn_in_their_proportion():
    names = ["dead leaves", "Siemens stars"]
    kind = random_objects(600, (16, 16), generator=seeded(), kinds=names).kind
    index = [list(KINDS).index(name) for name in names]
    assert set(kind.tolist()) == set(index)
    # their shares are as 2 to 1
    assert abs(float((kind == index[0]).float().mean()) - 2 / 3) < 4.5 * (2 / 9 / 600) ** 0.5


def test_isolated_objects_leave_the_border_free():
    drawn = random_objects(300, (64, 64), generator=seeded(7), isolated=1.0)
    inner = torch.zeros(64, 64, dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    assert drawn.isolated.all()
    assert float(drawn.maps[:, ~inner].max()) < 1e-3
    assert (drawn.maps.amax((1, 2)) > 0.99).all()
    assert not random_objects(50, (64, 64), generator=seeded(7), isolated=0.0).isolated.any()


def test_windows_are_inside_and_of_many_sizes():
    window = windows(300, (64, 96), seeded())
    assert window[:, :7].max() == 0 and window[:, -7:].max() == 0
    assert window[..., :7].max() == 0 and window[..., -7:].max() == 0
    area = window.mean((1, 2))
    assert float(area.min()) > 0.01 and float(area.max()) > 4 * float(area.min())


def test_blur_widens_a_point_by_its_sigma_and_keeps_the_sum():
    point = torch.zeros(3, 41, 41, dtype=torch.float64)
    point[:, 20, 20] = 1
    sigma = torch.tensor([0.7, 1.3, 2.0], dtype=torch.float64)
    wide = blur(point, sigma)
    x = torch.arange(41, dtype=torch.float64) - 20
    torch.testing.assert_close(wide.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    for axis in (1, 2):
        torch.testing.assert_close((wide.sum(axis) * x**2).sum(1), sigma**2, rtol=0.03, atol=0)
    flat = torch.full((1, 9, 9), 0.4)
    torch.testing.assert_close(blur(flat, torch.tensor([2.0])), flat)


def test_half_of_the_objects_are_blurred_further():
    drawn = random_objects(1000, (16, 16), generator=seeded(3), kinds=["gratings"])
    blurred = (drawn.blur_px > 0).float().mean()
    # of the half that is, a tenth has a sigma too small to matter
    assert abs(float(blurred) - 0.45) < 4.5 * (0.25 / 1000) ** 0.5
    assert float(drawn.blur_px.max()) <= LARGEST_BLUR_PX


def test_a_single_material_ties_absorption_to_phase():
    maps = random_objects(3, (16, 16), generator=seeded()).maps.double()
    peak, ratio = torch.tensor([0.1, 1.0, 6.0]).double(), torch.tensor([0.0, 0.01, 0.5]).double()
    phase, mu = phase_and_absorption(maps, peak, ratio)
    torch.testing.assert_close(phase.amin((1, 2)), -peak)
    torch.testing.assert_close(mu, ratio[:, None, None] * phase.abs())
    # the wave behind thickness t is exp(i k n t) but for vacuum: n - 1 = -delta + i beta
    index = torch.complex(-torch.ones_like(ratio), ratio)
    wave = torch.exp(1j * (peak * index)[:, None, None] * maps)
    torch.testing.assert_close(torch.exp(torch.complex(-mu, phase)), wave)


def test_free_and_two_material_absorption():
    generator = seeded(4)
    maps, other = (random_objects(4, (16, 16), generator=generator).maps for _ in range(2))
    peak, a, b = torch.full((4,), 2.0), torch.full((4,), 0.01), torch.full((4,), 0.2)
    phase, mu = free_phase_and_absorption(maps, other, peak, a)
    torch.testing.assert_close(phase, -2 * maps)
    torch.testing.assert_close(mu, 0.01 * other)
    for share, ratio in ((torch.zeros_like(maps), a), (torch.ones_like(maps), b)):
        for found, expected in zip(
            two_materials(maps, share, peak, a, b), phase_and_absorption(maps, peak, ratio), strict=True
        ):
            torch.testing.assert_close(found, expected)
    _, mixed = two_materials(maps, other, peak, a, b)
    torch.testing.assert_close(mixed, 2 * maps * (0.01 * (1 - other) + 0.2 * other))


def test_what_absorbs_is_of_every_kind_and_shares_the_edges_that_it_says():
    maps = random_objects(600, (32, 32), generator=seeded(1)).maps
    absorbing, kind = absorbing_maps(maps, seeded(2))
    assert absorbing.shape == maps.shape and absorbing.min() >= 0 and absorbing.max() <= 1
    found = torch.bincount(kind, minlength=len(SHARES)) / len(kind)
    torch.testing.assert_close(found, torch.tensor(SHARES), atol=0.06, rtol=0)
    assert (absorbing[kind == Absorbing.NOTHING] == 0).all()
    torch.testing.assert_close(absorbing[kind == Absorbing.TIED], maps[kind == Absorbing.TIED])
    empty = maps == 0
    for sort in (Absorbing.MATERIALS, Absorbing.LEVELS):
        # nothing absorbs where nothing is
        assert absorbing[kind == sort][empty[kind == sort]].max() < 1e-6
        # of one thickness one absorption
        together = [
            torch.corrcoef(torch.stack([a.flatten(), m.flatten()]))[0, 1]
            for a, m in zip(absorbing[kind == sort], maps[kind == sort], strict=True)
        ]
        assert torch.stack(together).nanmedian() < 0.98
    one = absorbing[kind == Absorbing.LEVELS][0].flatten()
    thickness = maps[kind == Absorbing.LEVELS][0].flatten()
    flat = torch.unique(thickness, return_counts=True)
    same = one[thickness == flat[0][flat[1].argmax()]]
    assert float(same.max() - same.min()) < 1e-5
    again, kinds = absorbing_maps(maps, seeded(2))
    assert torch.equal(again, absorbing) and torch.equal(kinds, kind)
    assert absorbing_maps(maps[:0], seeded())[0].shape == (0, 32, 32)


def test_what_is_refused():
    with pytest.raises(SettingsError, match="known ones are smooth fields"):
        random_objects(2, generator=seeded(), kinds=["cats"])
    with pytest.raises(SettingsError, match="empty"):
        random_objects(2, generator=seeded(), kinds=[])
    with pytest.raises(SettingsError, match="sides"):
        random_objects(2, (8, 64), generator=seeded())
    maps = torch.ones(2, 16, 16)
    with pytest.raises(SettingsError, match="peak_phase_rad"):
        phase_and_absorption(maps, torch.tensor([1.0, -1.0]), torch.ones(2))
    with pytest.raises(SettingsError, match="composition"):
        two_materials(maps, maps[:1], torch.ones(2), torch.ones(2), torch.ones(2))
