"""Attention against loops written from the papers' equations."""

import math

import pytest
import torch

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.image import GAM, ChannelNAM, PixelNAM, SelfAttention
from nfphasing_bluesky.flows.image.attention import grid_positions, rotate
from tests.flows.image.subjects import unsettle

B, C, H, W = 2, 16, 4, 5


def sigmoid(v):
    return 1 / (1 + math.exp(-float(v)))


@pytest.fixture(autouse=True)
def _without_graph():
    with torch.no_grad():
        yield


@pytest.fixture
def x():
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def group_normed(x, norm):
    """Group normalisation, one group of one image after the other."""
    out = torch.empty_like(x)
    size = x.shape[1] // norm.num_groups
    for b in range(x.shape[0]):
        for g in range(norm.num_groups):
            part = x[b, g * size : (g + 1) * size]
            deviation = (((part - part.mean()) ** 2).mean() + norm.eps) ** 0.5
            out[b, g * size : (g + 1) * size] = (part - part.mean()) / deviation
    return out * norm.weight[:, None, None] + norm.bias[:, None, None]


def test_channel_nam_is_equation_2(x):
    nam = unsettle(ChannelNAM(C)).double()
    normed = group_normed(x, nam.norm)
    total = sum(abs(float(g)) for g in nam.norm.weight)
    got = nam(x)
    for b, c, i, j in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)).tolist():
        weight = abs(float(nam.norm.weight[c])) / total
        expected = float(x[b, c, i, j]) * sigmoid(weight * normed[b, c, i, j])
        assert float(got[b, c, i, j]) == pytest.approx(expected, rel=1e-9)


def test_pixel_nam_is_equation_3():
    side = 3
    x = torch.randn(B, C, side, side, dtype=torch.float64)
    nam = unsettle(PixelNAM(side)).double()
    scale, shift = nam.scale[0, 0], nam.shift[0, 0]
    total = sum(abs(float(v)) for v in scale.flatten())
    got = nam(x)
    for b in range(B):
        for i in range(side):
            for j in range(side):
                pixel = [float(v) for v in x[b, :, i, j]]
                mean = sum(pixel) / C
                deviation = math.sqrt(sum((v - mean) ** 2 for v in pixel) / C + 1e-5)
                weight = abs(float(scale[i, j])) / total
                for c in range(C):
                    normed = float(scale[i, j]) * (pixel[c] - mean) / deviation + float(shift[i, j])
                    expected = pixel[c] * sigmoid(weight * normed)
                    assert float(got[b, c, i, j]) == pytest.approx(expected, rel=1e-9)


def test_pixel_nam_takes_maps_of_other_sizes(x):
    assert PixelNAM(8).double()(x).shape == x.shape


def test_gam_is_its_two_gates(x):
    """The MLP on each pixel's channels, then two 7 x 7 convolutions as sums over shifted pixels."""
    gam = unsettle(GAM(C, reduction=4)).double()
    first, _, second = gam.channel
    gated = torch.empty_like(x)
    for b in range(B):
        for i in range(H):
            for j in range(W):
                hidden = (first.weight @ x[b, :, i, j] + first.bias).clamp(min=0)
                gated[b, :, i, j] = x[b, :, i, j] * torch.sigmoid(second.weight @ hidden + second.bias)

    def convolve(image, layer):
        out = layer.bias[None, :, None, None].expand(B, -1, H, W).clone()
        for di in range(-3, 4):
            for dj in range(-3, 4):
                for i in range(max(0, -di), min(H, H - di)):
                    for j in range(max(0, -dj), min(W, W - dj)):
                        kernel = layer.weight[:, :, di + 3, dj + 3]
                        out[:, :, i, j] = out[:, :, i, j] + image[:, :, i + di, j + dj] @ kernel.T
        return out

    one, norm, _, two, last = gam.spatial
    assert one.out_channels == C // 4
    hidden = group_normed(convolve(gated, one), norm).clamp(min=0)
    expected = gated * torch.sigmoid(group_normed(convolve(hidden, two), last))
    torch.testing.assert_close(gam(x), expected)


def test_self_attention_is_a_softmax_over_all_pixels(x):
    heads = 2
    attention = unsettle(SelfAttention(C, heads)).double()
    normed = group_normed(x, attention.norm).flatten(2)
    project, last = attention.project, attention.last
    tokens = project.weight[:, :, 0, 0] @ normed + project.bias[:, None]
    query, key, value = tokens.split(C, dim=1)
    places, size = grid_positions(x), C // heads
    out = torch.empty_like(value)
    for b in range(B):
        for h in range(heads):
            rows = slice(h * size, (h + 1) * size)
            q, k = rotate(query[b, rows].T, places), rotate(key[b, rows].T, places)
            for t in range(H * W):
                weight = torch.softmax(torch.stack([q[t] @ k[s] for s in range(H * W)]) / size**0.5, 0)
                out[b, rows, t] = value[b, rows] @ weight
    expected = x + (last.weight[:, :, 0, 0] @ out + last.bias[:, None]).view_as(x)
    torch.testing.assert_close(attention(x), expected)


def test_rotated_dot_products_depend_on_differences_of_positions_alone():
    a, b = torch.randn(2, 16, dtype=torch.float64)
    near, far = torch.tensor([[1.0, 2.0], [4.0, -3.0]]), torch.tensor([[31.0, 12.0], [34.0, 7.0]])
    products = [rotate(a[None], p[:1]) @ rotate(b[None], p[1:]).T for p in (near, far)]
    torch.testing.assert_close(products[0], products[1], rtol=1e-5, atol=1e-5)
    other = rotate(a[None], near[:1]) @ rotate(b[None], near[1:] + 1).T
    assert (other - products[0]).abs() > 1e-3


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(SettingsError, match="multiple of 4 x heads = 12"):
        SelfAttention(16, 3)
