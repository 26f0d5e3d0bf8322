"""Haar transforms against the matrix that defines them."""

import pytest
import torch

from nfphasing_bluesky.flows.image import haar_merge, haar_split, merge_levels, split_levels

# rows: mean, difference along W, along H, along the diagonal, of pixels (0, 0), (0, 1), (1, 0), (1, 1)
HAAR = 0.5 * torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double()


def test_split_is_the_haar_matrix_of_each_block():
    x = torch.randn(3, 2, 8, 6, dtype=torch.float64)
    coarse, details = haar_split(x)
    assert coarse.shape == (3, 2, 4, 3) and details.shape == (3, 6, 4, 3)
    for c in range(2):
        for i in range(4):
            for j in range(3):
                block = x[:, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
                got = torch.stack((coarse[:, c, i, j], *(details[:, c + 2 * k, i, j] for k in range(3))), 1)
                torch.testing.assert_close(got, block @ HAAR.T)
    torch.testing.assert_close(haar_merge(coarse, details), x)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_levels_are_an_orthonormal_change_of_basis(levels):
    size = 8
    x = torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size)
    parts = split_levels(x, levels)
    matrix = torch.cat([p.flatten(1) for p in parts], dim=1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size * size, dtype=torch.float64))
    torch.testing.assert_close(merge_levels(parts), x)


def test_autocast_does_not_round():
    x = torch.randn(1, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(haar_split(x)[0], haar_split(x.clone())[0])
        assert haar_split(x)[0].dtype == torch.float32
    torch.testing.assert_close(haar_merge(*haar_split(x)), x)
