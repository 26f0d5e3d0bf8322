"""Tiles cover a frame, agree where they overlap, and leave what is the same in all of them as it was."""

import pytest
import torch

from nfphasing_bluesky.modalities.imaging.tiles import STEP, tiling

SHAPES = [(64, 64), (64, 128), (100, 72), (200, 513)]


@pytest.mark.parametrize("shape", SHAPES)
def test_blending_what_was_cut_gives_the_image_back(shape):
    images = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    tiles = tiling(shape, 64)
    cut = tiles.cut(images)
    assert cut.shape == (2, 3, len(tiles.corners), *tiles.size)
    torch.testing.assert_close(tiles.blend(cut), images)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pixel_is_covered_and_tiles_lie_on_the_coarse_grid(shape):
    tiles = tiling(shape, 64)
    count = torch.zeros(shape)
    for y, x in tiles.corners:
        count[y : y + tiles.size[0], x : x + tiles.size[1]] += 1
    assert int(count.min()) >= 1
    assert all(n % STEP == 0 and n <= 64 for n in tiles.size)
    inner = [c for c in tiles.corners if all(a + n < m for a, n, m in zip(c, tiles.size, shape, strict=True))]
    assert all(y % STEP == 0 and x % STEP == 0 for y, x in inner)


def test_one_tile_is_the_whole_frame():
    assert tiling((64, 64), 64).single
    assert not tiling((64, 72), 64).single


def test_a_step_between_tiles_is_spread_over_their_overlap():
    tiles = tiling((64, 96), 64)
    levels = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 64, 64)
    whole = tiles.blend(levels)
    assert tiles.corners == ((0, 0), (0, 32))
    assert float(whole[:, :32].max()) < 1e-2
    assert float(whole[:, 64:].min()) > 1 - 1e-2
    # the overlap is 32 pixels: no step larger than twice its even share
    assert float(whole.diff(dim=1).abs().max()) < 2.2 / 32
