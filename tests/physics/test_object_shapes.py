"""Shapes in frames: areas, thicknesses and distances against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from nfphasing_bluesky.physics.objects import leaves as leaf
from nfphasing_bluesky.physics.objects.aggregates import grow
from nfphasing_bluesky.physics.objects.cells import blend, draw_seeds, partition
from nfphasing_bluesky.physics.objects.fibres import Segments, render_fibres
from nfphasing_bluesky.physics.objects.outlines import Outlines, Rounded, paint_outlines
from nfphasing_bluesky.physics.objects.particles import Places, render_balls, scatter
from nfphasing_bluesky.physics.objects.stamps import coverage, disc_coverage, paint, segment_distance
from nfphasing_bluesky.physics.objects.writing import _draw, glyph_strokes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(size, dtype=torch.float64)
    return x[:, None], x[None]


def test_anti_aliased_discs_have_the_area_of_discs():
    radius = torch.linspace(1.2, 12, 40, dtype=torch.float64)
    centre = 15 + torch.rand(40, 2, generator=seeded(), dtype=torch.float64)
    maps = paint(
        torch.zeros(40, 32, 32, dtype=torch.float64),
        torch.arange(40),
        centre,
        radius + 1,
        lambda rows, dy, dx: disc_coverage(dy, dx, radius[rows, None, None]),
        "amax",
    )
    torch.testing.assert_close(maps.sum((1, 2)), torch.pi * radius**2, rtol=0.01, atol=0)
    assert ((maps > 0.02) & (maps < 0.98)).any((1, 2)).all()


def test_balls_have_the_projected_thickness_of_balls():
    places = Places(torch.arange(2), torch.tensor([[40.0, 41.0], [39.6, 40.3]]), torch.tensor([25.0, 30.0]))
    maps = render_balls(places, 2, (81, 81), torch.tensor([0.0, 0.6])).double()
    y, x = grid(81)
    for i, hollow in enumerate((0.0, 0.6)):
        r2 = (y - places.centre[i, 0]) ** 2 + (x - places.centre[i, 1]) ** 2
        outer, inner = float(places.radius[i]), hollow * float(places.radius[i])
        chord = 2 * (outer**2 - r2).clamp(min=0).sqrt() - 2 * (inner**2 - r2).clamp(min=0).sqrt()
        # away from the edges, where a pixel averages over a steep slope
        r = r2.sqrt()
        smooth = ((r - outer).abs() > 2) & ((r - inner).abs() > 2)
        torch.testing.assert_close(maps[i][smooth], chord[smooth], rtol=2e-3, atol=0.02)
        volume = 4 / 3 * math.pi * (outer**3 - inner**3)
        assert float(maps[i].sum()) == pytest.approx(volume, rel=2e-3)


def test_small_balls_keep_their_volume_and_add_up():
    radius = torch.linspace(1.5, 6, 30)
    centre = 15 + torch.rand(30, 2, generator=seeded())
    maps = render_balls(Places(torch.arange(30), centre, radius), 30, (32, 32), torch.zeros(30))
    torch.testing.assert_close(maps.sum((1, 2)), 4 / 3 * torch.pi * radius**3, rtol=0.06, atol=0)
    twice = Places(torch.zeros(2, dtype=torch.long), centre[:1].expand(2, 2), radius[-1:].expand(2))
    one = render_balls(
        Places(torch.zeros(1, dtype=torch.long), centre[:1], radius[-1:]), 1, (32, 32), torch.zeros(1)
    )
    torch.testing.assert_close(render_balls(twice, 1, (32, 32), torch.zeros(2)), 2 * one)
    torch.testing.assert_close(render_balls(twice, 1, (32, 32), torch.zeros(2), overlap=False), one)


@pytest.mark.parametrize("corners", [0, 3, 4, 5, 6])
@pytest.mark.parametrize("aspect", [1.0, 2.5])
def test_outlines_have_the_area_of_their_disc(corners, aspect):
    n = 40
    angle = torch.rand(n, generator=seeded()) * 2 * torch.pi
    outlines = Outlines(
        torch.full((n,), 9.0), torch.full((n,), aspect), angle, torch.full((n,), corners), torch.ones(n, 6)
    )
    centre = 40 + torch.rand(n, 2, generator=seeded(1))
    maps = paint_outlines(
        torch.zeros(n, 81, 81), torch.arange(n), centre, outlines, lambda _, d: coverage(d), "amax"
    )
    # corners stay sharp, so that a ramp of a pixel adds a little there
    torch.testing.assert_close(maps.sum((1, 2)), torch.full((n,), math.pi * 81), rtol=0.02, atol=0)
    # the longest extent turns with the angle
    x = torch.arange(81.0)
    along = (x[None, :, None] - centre[:, :1, None]) * angle.sin()[:, None, None]
    along = along + (x[None, None] - centre[:, 1:, None]) * angle.cos()[:, None, None]
    mass = maps / maps.sum((1, 2), keepdim=True)
    second = (mass * along**2).sum((1, 2)) - (mass * along).sum((1, 2)) ** 2
    assert float(second.mean()) / (81 / 4 * aspect) == pytest.approx(1, abs=0.25 if corners == 3 else 0.07)


def test_uneven_polygons_stay_within_their_boxes():
    n = 400
    generator = seeded(3)
    corners = torch.randint(3, 7, (n,), generator=generator)
    offsets = 0.8 + 0.4 * torch.randint(0, 2, (n, 6), generator=generator)
    outlines = Outlines(
        torch.full((n,), 8.0), torch.full((n,), 1.0), torch.rand(n, generator=generator) * 7, corners, offsets
    )
    whole = outlines._replace(radius=outlines.radius)
    centre = torch.full((n, 2), 32.0)
    found = paint_outlines(
        torch.zeros(n, 65, 65), torch.arange(n), centre, whole, lambda _, d: coverage(d), "amax"
    )
    far = (torch.arange(65.0)[:, None] - 32) ** 2 + (torch.arange(65.0) - 32) ** 2
    extent = (far * (found > 0)).amax((1, 2)).sqrt()
    bound = torch.tensor([0, 0, 0, 1.88, 1.51, 1.39, 1.33])[corners] * 8 + 1
    assert (extent <= bound + 1).all()
    assert float((extent / bound).max()) > 0.9


def test_painting_in_boxes_equals_painting_whole_frames():
    generator = seeded(2)
    M, n, size = 60, 3, 40
    owner = torch.randint(0, n, (M,), generator=generator)
    centre = torch.rand(M, 2, generator=generator, dtype=torch.float64) * 60 - 10
    radius = torch.exp(torch.rand(M, generator=generator, dtype=torch.float64) * 3.5)
    y, x = grid(size)
    for reduce, join in (("amax", torch.maximum), ("sum", torch.add)):
        found = paint(
            torch.zeros(n, size, size, dtype=torch.float64),
            owner,
            centre,
            radius + 1,
            lambda rows, dy, dx: disc_coverage(dy, dx, radius[rows, None, None]),
            reduce,
        )
        expected = torch.zeros_like(found)
        for i in range(M):
            shape = disc_coverage(y - centre[i, 0], x - centre[i, 1], radius[i])
            expected[owner[i]] = join(expected[owner[i]], shape)
        torch.testing.assert_close(found, expected)


def test_strokes_have_the_area_of_capsules():
    ends = torch.tensor([[[20.3, 11.2], [44.8, 50.1]], [[30.0, 30.0], [30.0, 30.0]]])
    pen = torch.tensor([3.0, 6.0])
    maps = _draw(ends, torch.arange(2), pen, 2, (64, 64))
    length = (ends[:, 1] - ends[:, 0]).norm(dim=1)
    torch.testing.assert_close(maps.sum((1, 2)), 2 * pen * length + torch.pi * pen**2, rtol=0.01, atol=0)


def test_glyphs_are_all_different_and_within_their_cell():
    strokes, glyph = glyph_strokes(torch.device("cpu"))
    assert strokes[..., 0].abs().max() == 3 and strokes[..., 1].abs().max() == 2
    count = int(glyph.max()) + 1
    assert count == 37
    ink = _draw(strokes * 4 + 16, glyph, torch.full((len(glyph),), 1.5), count, (33, 33)).flatten(1)
    overlap = (ink[:, None] - ink).abs().sum(-1) + 1e9 * torch.eye(count)
    assert float(overlap.min()) > 15


def test_a_straight_fibre_is_a_round_rod_and_layers_add():
    along = torch.tensor([[0.6, 0.8]]).expand(2, 2)
    centre = torch.full((2, 2), 31.5)
    segments = Segments(torch.tensor([0, 1]), centre, along, torch.full((2,), 60.0), torch.full((2,), 10.0))
    one = Segments(*(x[:1] for x in segments))
    maps = render_fibres(one, 1, (64, 64), torch.tensor([False]))[0].double()
    y, x = grid(64)
    d = ((y - 31.5) * 0.8 - (x - 31.5) * 0.6).abs()
    inside = d < 8
    torch.testing.assert_close(maps[inside], 2 * (100 - d[inside] ** 2).sqrt(), rtol=5e-3, atol=0)
    torch.testing.assert_close(
        render_fibres(segments, 1, (64, 64), torch.tensor([False]))[0].double(), 2 * maps
    )
    tape = render_fibres(one, 1, (64, 64), torch.tensor([True]))[0].double()
    torch.testing.assert_close(tape, 20 * (10.5 - d).clamp(0, 1), atol=1e-3, rtol=0)


def test_segment_distance_by_brute_force():
    y, x = grid(30)
    along = torch.tensor([[0.28, 0.96]], dtype=torch.float64)
    found = segment_distance((y - 14)[None], (x - 15)[None], along, torch.tensor([7.0]).double())[0]
    points = torch.linspace(-7, 7, 4001, dtype=torch.float64)[:, None] * along
    pixel = torch.cartesian_prod(y[:, 0] - 14, x[0] - 15)
    torch.testing.assert_close(found.flatten(), torch.cdist(pixel, points).amin(1), atol=2e-3, rtol=0)


def test_voronoi_cells_belong_to_the_nearest_seed():
    shape = (37, 50)
    seeds = draw_seeds(40, shape, seeded(11))
    owner = partition(seeds, shape)
    assert owner.first.shape == (40, *shape)
    y, x = (torch.arange(s, dtype=torch.float64) - (s - 1) / 2 for s in shape)
    pixel = torch.cartesian_prod(y, x)
    G = math.isqrt(seeds.lattice.shape[1])
    for i in range(40):
        matrix, lattice = seeds.matrix[i].double(), seeds.lattice[i].double()
        distance, index = torch.cdist(pixel @ matrix.T + G / 2, lattice).topk(2, largest=False)
        # float32 may take either of two seeds at the same distance
        clear = distance[:, 1] - distance[:, 0] > 1e-4
        assert torch.equal(owner.first[i].flatten()[clear], index[clear, 0])
        same = owner.second[i].flatten()[clear] == index[clear, 1]
        assert float(same.double().mean()) > 0.999
        # distance from the pixel to the line half-way between two seeds, in pixels
        seed = (lattice - G / 2) @ torch.linalg.inv(matrix).T
        a, b = seed[index[:, 0]], seed[index[:, 1]]
        metric = matrix.T @ matrix
        normal = (b - a) @ metric
        border = (((a + b) / 2 - pixel) * normal).sum(1) / normal.norm(dim=1)
        both = clear & (owner.second[i].flatten() == index[:, 1])
        found = owner.border[i].flatten().double()
        torch.testing.assert_close(found[both], border[both], atol=5e-3, rtol=1e-3)


def test_grains_are_flat_inside_and_blend_at_borders():
    shape = (64, 64)
    seeds = draw_seeds(6, shape, seeded(1))
    level = torch.rand(seeds.lattice.shape[:2], generator=seeded(2))
    owner = partition(seeds, shape)
    maps = blend(level, owner)
    here = level.gather(1, owner.first.flatten(1)).view(maps.shape)
    there = level.gather(1, owner.second.flatten(1)).view(maps.shape)
    inside = owner.border > 0.5
    assert torch.equal(maps[inside], here[inside])
    assert ((maps - (here + there) / 2).abs() <= (here - there).abs() / 2 + 1e-6).all()


def test_leaf_radii_follow_the_inverse_cube():
    radius = leaf.power_law_radii(
        torch.rand(20_000, generator=seeded()), torch.tensor(2.0), torch.tensor(50.0)
    )

    def cumulative(r: np.ndarray) -> np.ndarray:
        return (2.0**-2 - r**-2.0) / (2.0**-2 - 50.0**-2)

    assert kstest(radius.numpy(), cumulative).pvalue > 1e-3
    drawn = leaf.draw_leaves(50, (64, 64), seeded(1))
    assert drawn.outlines.radius.min() >= 1 and drawn.outlines.radius.max() <= 32


def test_earlier_leaves_hide_later_ones_as_a_painter_would_paint_them():
    shape = (24, 31)
    drawn = leaf.draw_leaves(4, shape, seeded(5))
    found = leaf.render_leaves(drawn, 4, shape)
    disc = drawn.outlines.corners == 0
    y, x = (torch.arange(s, dtype=torch.float64) for s in shape)
    expected = torch.zeros(4, *shape, dtype=torch.float64)
    only = leaf.Leaves(
        drawn.owner[disc], drawn.centre[disc], Outlines(*(o[disc] for o in drawn.outlines)), drawn.level[disc]
    )
    for dy, dx in ((-0.375, -0.125), (-0.125, 0.375), (0.125, -0.375), (0.375, 0.125)):
        canvas = torch.zeros_like(expected)
        for i in reversed(range(len(only.owner))):
            row, column = y[:, None] + dy - only.centre[i, 0], x + dx - only.centre[i, 1]
            cos, sin = only.outlines.angle[i].cos(), only.outlines.angle[i].sin()
            a = (column * cos + row * sin) / only.outlines.aspect[i] ** 0.5
            b = (row * cos - column * sin) * only.outlines.aspect[i] ** 0.5
            canvas[only.owner[i]][a**2 + b**2 < only.outlines.radius[i] ** 2] = only.level[i].double()
        expected += canvas / 4
    wrong = (leaf.render_leaves(only, 4, shape) - expected).abs() > 1e-5
    assert float(wrong.double().mean()) < 1e-3
    assert found.min() >= 0 and found.max() <= 1


def gradient_of_scales(maps: torch.Tensor, scales: tuple[int, ...]) -> list[float]:
    """Root mean square differences of neighbours after averaging over blocks."""
    found = []
    for s in scales:
        small = torch.nn.functional.avg_pool2d(maps[:, None], s)[:, 0]
        found.append(float(small.diff(dim=2).square().mean().sqrt()))
    return found


def test_dead_leaves_look_alike_at_all_scales():
    n, generator, shape = 32, seeded(8), (64, 64)
    ones = torch.ones(n)
    drawn = leaf.scatter_leaves(ones, 64 * ones, 3 * ones, shape, generator)
    fine, coarse = gradient_of_scales(leaf.render_leaves(drawn, n, shape), (2, 8))
    assert 0.87 < fine / coarse < 1.15
    # leaves of one size don't
    drawn = leaf.scatter_leaves(7 * ones, 9 * ones, 3 * ones, shape, generator)
    fine, coarse = gradient_of_scales(leaf.render_leaves(drawn, n, shape), (2, 8))
    assert fine / coarse < 0.8


def variogram(distance: float, smallest: float, largest: float, power: float) -> float:
    """Of dead discs of radii r^-power, uniform levels.

    The first leaf that hits one of two points hits both with probability g / (2 g(0) - g), g the mean
    covariogram of the leaves; else the levels are independent, of variance 1/12.
    """
    r = np.geomspace(smallest, largest, 2001)
    x = np.minimum(distance / (2 * r), 1)
    lens = 2 * r**2 * (np.arccos(x) - x * np.sqrt(1 - x**2))
    g, g0 = np.trapezoid(lens * r**-power, r), np.trapezoid(np.pi * r ** (2 - power), r)
    return 2 / 12 * (1 - g / (2 * g0 - g))


def test_dead_leaves_have_the_variogram_of_the_inverse_cube():
    n, size, smallest, largest = 80, 128, 6.0, 60.0
    ones = torch.ones(n)
    drawn = leaf.scatter_leaves(smallest * ones, largest * ones, 7 * ones, (size, size), seeded(4))
    M = len(drawn.owner)
    discs = drawn.outlines._replace(aspect=torch.ones(M), corners=torch.zeros(M, dtype=torch.long))
    maps = leaf.render_leaves(drawn._replace(outlines=discs), n, (size, size)).double()
    for d in (16, 24, 32):
        found = float((maps[:, :, d:] - maps[:, :, :-d]).square().mean())
        assert found == pytest.approx(variogram(d, smallest, largest, 3), rel=0.06)
    found = float((maps[:, :, 16:] - maps[:, :, :-16]).square().mean())
    for other in (2, 4):
        assert found != pytest.approx(variogram(16, smallest, largest, other), rel=0.08)


def test_aggregates_touch_without_overlap():
    generator = seeded(4)
    radius = torch.exp(0.3 * torch.randn(20, 32, generator=generator, dtype=torch.float64).clamp(-2, 2))
    centre = grow(radius, generator)
    gap = torch.cdist(centre, centre) - (radius[:, :, None] + radius[:, None])
    gap += 1e9 * torch.eye(32)
    assert float(gap.min()) > -1e-5
    assert float(gap.amin(-1).max()) < 1e-5
    # all of one piece: the graph of contacts is connected
    touch = ((gap < 1e-5) | torch.eye(32, dtype=torch.bool)).double()
    assert (torch.linalg.matrix_power(touch, 31) > 0).all()


def test_aggregates_are_fractal():
    generator = seeded(6)
    spread = []
    for balls in (8, 128):
        centre = grow(torch.ones(150, balls), generator)
        spread.append(float(centre.square().sum(-1).mean()))
    dimension = 2 * math.log(128 / 8) / math.log(spread[1] / spread[0])
    # ballistic cluster-cluster growth: 1.9 to 2.0 for large clusters; paired by size and small here
    assert 1.6 < dimension < 2.2


def test_scattered_particles_fill_what_was_drawn():
    places = scatter(300, (64, 64), seeded(), smallest=1.5, largest=20)
    assert places.owner.unique().numel() == 300
    assert float(places.radius.min()) >= 1.5
    inside = ((places.centre > 0) & (places.centre < 63)).all(1).float()
    some = torch.zeros(300).index_add_(0, places.owner, inside)
    assert (some > 0).float().mean() > 0.97


def test_rounded_outlines_reach_as_far_as_they_say():
    outline = Rounded(seeded(), torch.full((50,), 10.0), torch.full((50,), 1.7), torch.ones(50))
    x = torch.arange(-60.0, 61)
    edge, r = outline(torch.arange(50), x[None, :, None], x[None, None])
    distance = (x[:, None] ** 2 + x**2).sqrt()
    farthest = ((r < edge) * distance).amax((1, 2))
    assert (farthest <= outline.farthest() + 0.3).all()
    assert (farthest >= outline.farthest() - 1.5).all()
    assert (outline.farthest() <= outline.reach + 1e-3).all()
