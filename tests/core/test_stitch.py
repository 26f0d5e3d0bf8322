"""Patches cut from a known object, with unknown phases and known noise, put together again."""

from dataclasses import replace

import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    FrameError,
    GeometryError,
    Origin,
    Posterior,
    Prediction,
    Trust,
    Verdict,
)
from nfphasing_bluesky.core.stitch import Stitcher
from nfphasing_bluesky.core.windows import Window

SIDE = 32
OBJECT = (90, 100)


def truth(shape=OBJECT):
    y, x = np.mgrid[: shape[0], : shape[1]] / 20
    return np.exp(1j * (0.8 * np.sin(x + 0.3 * y) + 0.4 * np.cos(2 * y)) - 0.1 * (1 + np.sin(y - x)))


def density(step=1.0, units="px"):
    axis = step * np.arange(SIDE)
    return DensityInfo(
        "phase and absorption",
        "rad",
        (Axis("part", np.array([0.0, 1.0]), ""), Axis("y", axis, units), Axis("x", axis, units)),
    )


def beam_std(least=0.02, most=1.0):
    """(H, W) as a round beam knows its patch: well in the middle, hardly at the edges."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return np.minimum(least * np.exp((x**2 + y**2) / (2 * 6.0**2)), most)


def posterior(mean, std, place, verdict=Verdict.VALID, **changes):
    nothing = np.zeros((1, 1))
    made = Posterior(
        density(),
        mean,
        std,
        mean[None],
        {},
        {},
        Prediction(nothing, nothing, nothing),
        Trust(1.0, None, 0.1, verdict),
        origin=Origin("scan"),
        place=place,
    )
    return replace(made, **changes)


def patch(rng, place, std, image=None, noise=None, **changes):
    """Posterior of the patch at a place, its phase turned by an unknown angle and with noise of its std."""
    image = truth() if image is None else image
    row, column = (int(np.floor(p + 0.5)) for p in place)
    cut = image[row : row + SIDE, column : column + SIDE]
    noise = rng.normal(size=(2, SIDE, SIDE)) if noise is None else noise
    parts = np.stack([np.unwrap(np.unwrap(np.angle(cut), axis=0), axis=1), -np.log(np.abs(cut))])
    parts[0] += rng.uniform(-np.pi, np.pi)
    return posterior(parts + std * noise, np.stack([std, std]), place, **changes)


def grid(rng, step=8):
    places = [(r, c) for r in range(0, OBJECT[0] - SIDE, step) for c in range(0, OBJECT[1] - SIDE, step)]
    return [(r + rng.uniform(-0.4, 0.4), c + rng.uniform(-0.4, 0.4)) for r, c in places]


def stitched(patches, **settings):
    stitcher = Stitcher(**settings)
    for one in patches:
        stitcher.add(one)
    return stitcher.result()


def against(found, image=None):
    """Deviation of a stitched object from the truth over its std, after one global phase; and where seen."""
    image = truth() if image is None else image
    row, column = found.place
    there = image[max(row, 0) :, max(column, 0) :]
    here = found.mean[max(-row, 0) :, max(-column, 0) :]
    rows, columns = (min(a, b) for a, b in zip(there.shape, here.shape, strict=True))
    there, here = there[:rows, :columns], here[:rows, :columns]
    std = found.std[max(-row, 0) :, max(-column, 0) :][:rows, :columns]
    seen = np.isfinite(here)
    weight = np.where(seen, 1 / np.where(seen, std, 1) ** 2, 0)
    turn = np.sum(np.where(seen, weight * here * there.conj(), 0))
    here = here * np.conj(turn / abs(turn))
    return np.abs(here - there)[seen] / np.abs(there)[seen], std[seen]


def test_the_object_comes_back_within_its_error_bars():
    rng = np.random.default_rng(0)
    found = stitched([patch(rng, place, beam_std()) for place in grid(rng)])
    deviation, std = against(found)
    assert found.components == 1 and found.frames == 72
    # |dT|^2 / std^2 has mean 1 for complex noise
    lit = std < 0.05
    assert lit.mean() > 0.5
    assert np.mean((deviation / std)[lit] ** 2) == pytest.approx(1, abs=0.05)
    # of a complex normal variable 1 - exp(-k^2) lie within k std
    for k, share in ((0.5, 0.221), (1, 0.632), (2, 0.982)):
        assert np.mean((deviation <= k * std)[lit]) == pytest.approx(share, abs=0.03)


def lit(std):
    """Light in which photons leave this standard deviation."""
    return (std.min() / std) ** 2


def test_with_the_light_said_the_object_comes_back_within_its_error_bars_too():
    rng = np.random.default_rng(0)
    std = beam_std()
    found = stitched([patch(rng, place, std, light=lit(std)) for place in grid(rng)])
    deviation, bar = against(found)
    well = bar < 0.05
    assert well.mean() > 0.4
    assert np.mean((deviation / bar)[well] ** 2) == pytest.approx(1, abs=0.1)


def seen_under_a_prior(rng, place, spread=0.1):
    """Posterior of a patch under a normal prior, which tells more than the photons in the dark."""
    photons = beam_std(most=np.inf)
    std = 1 / np.sqrt(photons**-2 + spread**-2)
    row, column = (int(np.floor(p + 0.5)) for p in place)
    y, x = np.mgrid[row : row + SIDE, column : column + SIDE]
    parts = spread * np.stack([np.sin(2 * np.pi * x / 5), np.cos(2 * np.pi * y / 6)])
    measured = parts + photons * rng.normal(size=parts.shape)
    return posterior(measured * (std / photons) ** 2, np.stack([std, std]), place, light=lit(photons))


def contrast(found, spread=0.1):
    """Slope of the stitched phase and absorption against the true ones."""
    row, column = found.place
    y, x = np.mgrid[row : row + found.mean.shape[0], column : column + found.mean.shape[1]]
    true = spread * np.stack([np.sin(2 * np.pi * x / 5), np.cos(2 * np.pi * y / 6)])
    inner = np.s_[:, 20:-20, 20:-20]
    return [
        float(np.vdot(t, p) / np.vdot(t, t)) for t, p in zip(true[inner], found.parts[inner], strict=True)
    ]


def test_frames_that_did_not_see_a_pixel_take_no_contrast_away():
    rng = np.random.default_rng(11)
    patches = [seen_under_a_prior(rng, place) for place in grid(rng, step=4)]
    assert all(slope > 0.9 for slope in contrast(stitched(patches)))
    # every posterior counts its prior, and most of those that lie on a pixel know nothing else
    assert all(slope < 0.8 for slope in contrast(stitched([replace(p, light=None) for p in patches])))


def test_patches_lie_at_the_nearest_whole_pixel():
    rng = np.random.default_rng(1)
    found = stitched([patch(rng, (10.5, 20.49), beam_std()), patch(rng, (12.2, 21.7), beam_std())])
    assert found.place == (11, 20) and found.mean.shape == (33, 34)


def test_the_order_hardly_matters():
    rng = np.random.default_rng(2)
    patches = [patch(rng, place, beam_std(0.01)) for place in grid(rng)]
    one = stitched(patches)
    order = rng.permutation(len(patches))
    other = stitched([patches[i] for i in order])
    np.testing.assert_allclose(other.std, one.std, rtol=1e-3)
    # each patch is turned to those before it, so that the errors of the phases differ, within the error bars
    difference = np.abs(other.mean - one.mean) / (one.std * np.abs(one.mean))
    assert np.median(difference) < 0.15 and difference.max() < 0.6
    again = stitched(patches)
    np.testing.assert_array_equal(again.mean, one.mean)


def test_posteriors_that_share_frames_are_not_counted_as_independent():
    rng = np.random.default_rng(3)
    std = np.full((SIDE, SIDE), 0.1)
    same = rng.normal(size=(2, SIDE, SIDE))
    patches = [patch(rng, (5, 5), std, noise=same) for _ in range(6)]
    # all say the same: as good as one of them
    found = stitched(patches)
    np.testing.assert_allclose(found.std, np.sqrt(2) * 0.1, rtol=0.02)
    deviation, bar = against(found)
    assert np.mean(deviation**2 / bar**2) == pytest.approx(1, abs=0.1)


def test_patches_that_see_the_same_frames_are_not_counted_as_independent():
    rng = np.random.default_rng(3)
    patches = [patch(rng, (5, 5), np.full((SIDE, SIDE), 0.1)) for _ in range(12)]
    alone, together = stitched(patches), stitched(patches, neighbours=2)
    np.testing.assert_allclose(alone.std, np.sqrt(2 / 12) * 0.1, rtol=0.1)
    np.testing.assert_allclose(together.std / alone.std, np.sqrt(3), rtol=0.1)


def test_what_patches_share_is_measured():
    rng = np.random.default_rng(12)
    std = np.full((SIDE, SIDE), 0.1)
    whole, places = rng.normal(size=(2, *OBJECT)), grid(rng, step=4)
    for share in (0.3, 0.7):
        patches = []
        for place in places:
            row, column = (int(np.floor(p + 0.5)) for p in place)
            common = whole[:, row : row + SIDE, column : column + SIDE]
            noise = np.sqrt(share) * common + np.sqrt(1 - share) * rng.normal(size=common.shape)
            patches.append(patch(rng, place, std, noise=noise))
        deviation, bar = against(stitched(patches))
        assert np.mean((deviation / bar) ** 2) == pytest.approx(1, abs=0.08)


def test_patches_that_disagree_more_than_they_say_make_the_object_less_certain():
    rng = np.random.default_rng(13)
    noise = [3 * rng.normal(size=(2, SIDE, SIDE)) for _ in range(10)]
    patches = [patch(rng, (5, 5), np.full((SIDE, SIDE), 0.05), noise=one) for one in noise]
    deviation, bar = against(stitched(patches))
    assert np.median(bar) == pytest.approx(3 * np.sqrt(2) * 0.05 / np.sqrt(10), rel=0.05)
    assert np.mean((deviation / bar) ** 2) == pytest.approx(1, abs=0.1)


def test_islands_are_named_and_a_bridge_joins_them():
    rng = np.random.default_rng(4)
    stitcher = Stitcher()
    for place in ((0, 0), (4, 2), (0, 60)):
        stitcher.add(patch(rng, place, beam_std()))
    apart = stitcher.result()
    assert apart.components == 2 and apart.frames == 3
    assert apart.component[10, 10] == 1 and apart.component[16, 70] == 2
    assert not apart.seen[16, 50] and np.isnan(apart.mean[16, 50]) and np.isnan(apart.std[16, 50])
    for column in range(8, 60, 8):
        stitcher.add(patch(rng, (0, column), beam_std()))
    joined = stitcher.result()
    assert joined.components == 1
    deviation, std = against(joined)
    lit = std < 0.05
    assert np.mean((deviation / std)[lit] ** 2) < 1.5


def test_an_overlap_in_the_dark_connects_nothing():
    rng = np.random.default_rng(5)
    found = stitched([patch(rng, (0, column), beam_std()) for column in (0, 26)])
    assert found.components == 2


def said(verdict, chi2=1.0, ood=0.1):
    return {"trust": Trust(chi2, None, ood, verdict, "" if verdict is Verdict.VALID else "why")}


def test_what_says_nothing_is_left_out():
    rng = np.random.default_rng(6)
    good = patch(rng, (0, 0), beam_std())
    blind = replace(good, std=np.full((2, SIDE, SIDE), np.nan))
    lost = replace(good, **said(Verdict.ALARM, np.nan))
    found = stitched([good, blind, lost, replace(good, **said(Verdict.WARNING, 2.0))])
    assert (found.frames, found.left_out, found.doubtful_share) == (2, 2, 0.0)


def test_alarms_are_used_with_error_bars_as_wide_as_their_misfit():
    rng = np.random.default_rng(6)
    places = grid(rng)
    # every third is wrong by three times what it says, as its misfit shows
    noise = [rng.normal(size=(2, SIDE, SIDE)) * (3 if i % 3 == 0 else 1) for i in range(len(places))]
    trust = [said(Verdict.ALARM, 9.0) if i % 3 == 0 else {} for i in range(len(places))]
    patches = [
        patch(rng, place, beam_std(most=0.1), noise=n, **t)
        for place, n, t in zip(places, noise, trust, strict=True)
    ]
    found = stitched(patches)
    deviation, std = against(found)
    well = std < 0.05
    assert (found.frames, found.left_out, found.components) == (len(places), 0, 1)
    assert well.mean() > 0.3 and np.mean((deviation / std)[well] ** 2) == pytest.approx(1, abs=0.1)
    # where others saw it too they count more
    assert 0 < found.doubtful_share < 0.3 and not found.doubtful


def test_a_misfit_that_the_draws_spread_explains_widens_nothing():
    rng = np.random.default_rng(6)
    mean = np.full((SIDE, SIDE), 100.0)
    # draws 20 counts apart where counting makes 10: misfits of 1 + 400 / 100
    spread = Prediction(mean, mean - 40, mean + 40)
    for chi2, ood, wider in ((5.0, 0.1, 1.0), (20.0, 0.1, 4.0), (4.0, 3.0, 9.0)):
        one = patch(rng, (0, 0), beam_std(), prediction=spread, **said(Verdict.ALARM, chi2, ood))
        found = stitched([one])
        np.testing.assert_allclose(found.std, np.sqrt(2 * wider) * beam_std(), rtol=1e-6)
        assert found.doubtful and found.doubtful_share == 1.0 and found.doubted.all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_patch_joins_what_is_known_far_worse(order):
    rng = np.random.default_rng(8)
    wrong = patch(rng, (0, 0), beam_std(), **said(Verdict.ALARM, 1e4))
    found = stitched([(wrong, patch(rng, (3, 4), beam_std()))[i] for i in order])
    assert found.components == 1 and found.frames == 2
    # what only the wrong one saw is there, and says how little it is worth
    assert found.doubted[0, 0] and found.std[0, 0] > 1 and not found.doubted[SIDE, SIDE]


def test_a_window_shows_its_part_and_nothing_else():
    rng = np.random.default_rng(7)
    patches = [patch(rng, place, beam_std()) for place in grid(rng)]
    whole, part = stitched(patches), stitched(patches, window=Window(-5, 30, 40, 100))
    assert part.mean.shape == (40, 100) and part.place == (-5, 30)
    row, column = 5 + whole.place[0], whole.place[1] - 30
    assert not part.seen[:row].any()
    np.testing.assert_allclose(part.mean[row:, :60], whole.mean[: 40 - row, -column : 60 - column], rtol=1e-6)


def test_axes_run_on_in_the_patches_unit():
    flat, std = np.zeros((2, SIDE, SIDE)), np.full((2, SIDE, SIDE), 0.1)
    found = stitched([posterior(flat, std, (3, -2), density=density(2e-8, "m"))])
    y, x = found.axes
    assert (y.name, y.units, x.name, x.units) == ("y", "m", "x", "m")
    assert y.values[0] == pytest.approx(6e-8) and x.values[:2] == pytest.approx([-4e-8, -2e-8])
    assert found.parts.shape == (2, SIDE, SIDE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"place": None}, "place None"),
        ({"density": DensityInfo("rho", "1", density().axes[1:])}, "expected phase and absorption"),
        ({"density": density(2.0)}, "pixel of 2 px"),
    ],
)
def test_what_cannot_be_stitched_is_refused(changes, words):
    rng = np.random.default_rng(9)
    stitcher = Stitcher()
    stitcher.add(patch(rng, (0, 0), beam_std()))
    with pytest.raises(FrameError, match=words.replace("(", r"\(")):
        stitcher.add(replace(patch(rng, (0, 0), beam_std()), **changes))


def test_patches_in_the_wrong_unit_do_not_fill_the_memory():
    rng = np.random.default_rng(10)
    one = patch(rng, (0, 0), beam_std())
    stitcher = Stitcher()
    stitcher.add(one)
    stitcher.add(replace(one, place=(3e6, 4e6)))
    with pytest.raises(GeometryError, match="unit of the positions"):
        stitcher.result()
    assert Stitcher().result() is None
