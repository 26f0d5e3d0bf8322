"""What a bare pattern still lacks: uneven thickness, empty surroundings, blurred edges."""

import math

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import (
    Shape,
    angles,
    centred_grid,
    chance,
    each,
    integers,
    log_uniform,
    turned_grid,
    uniform,
)
from nfphasing_bluesky.physics.objects.fields import gaussian_field, power_laws
from nfphasing_bluesky.physics.objects.outlines import Rounded
from nfphasing_bluesky.physics.objects.stamps import coverage

LARGEST_BLUR_PX = 2.0
_SPARSE = 0.2
_BORDER = 0.04
"""Windows keep this share of the frame's sides free, plus the reach of the largest blur."""


def blur(maps: Tensor, sigma_px: Tensor) -> Tensor:
    """Gaussian blur of maps (n, H, W) by sigma (n,), px; beyond the frame the outermost pixels go on."""
    reach = math.ceil(3 * float(sigma_px.max())) if len(sigma_px) else 0
    if reach == 0:
        return maps
    offset = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    weight = torch.exp(-0.5 * (offset / sigma_px.to(maps).clamp(min=1e-3)[:, None]).square())
    weight = weight / weight.sum(1, keepdim=True)
    H, W = maps.shape[1:]
    padded = torch.nn.functional.pad(maps[:, None], (reach,) * 4, mode="replicate")[:, 0]
    down, right = padded.new_zeros(len(maps), H, W + 2 * reach), torch.zeros_like(maps)
    for i in range(2 * reach + 1):
        down.addcmul_(each(weight[:, i]), padded[:, i : i + H])
    for i in range(2 * reach + 1):
        right.addcmul_(each(weight[:, i]), down[:, :, i : i + W])
    return right


def texture(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Factors (n, H, W) in [0.5, 1] that make a thickness uneven: roughness, waves or a wedge."""
    field = gaussian_field(power_laws(n, generator, 1.5, 4.5), shape, generator)
    depth = uniform(generator, (n,), 0.05, 0.5)
    return 1 - each(depth) * torch.special.ndtr(field)


def windows(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Supports (n, H, W) away from the frame's edges: rounded, elliptic or rectangular, sharp or tapered."""
    H, W = shape
    free = torch.tensor([_BORDER * H, _BORDER * W], device=generator.device) + 3 * LARGEST_BLUR_PX
    room = (torch.tensor([H, W], device=generator.device) / 2 - free).clamp(min=2)
    least = float(room.min())
    rectangle = chance(generator, (n,), 0.3)
    rough = uniform(generator, (n,)) * chance(generator, (n,), 0.7)
    stretch = log_uniform(generator, (n,), 0.7, 1.8).clamp(min=1)
    outline = Rounded(generator, torch.ones(n, device=generator.device), stretch, rough)
    # as large as the room allows, or smaller
    radius = least / outline.farthest() * log_uniform(generator, (n,), 0.6, 1)
    half = least * log_uniform(generator, (n, 2), 0.35, 0.7)
    extent = torch.where(rectangle, half.norm(dim=1), radius * outline.farthest())
    rows, columns = centred_grid(shape, radius)
    # the centre stays where the outline's farthest point is still within the room
    slack = (room - extent[:, None]).clamp(min=0)
    centre = slack * uniform(generator, (n, 2), -1, 1)
    every = torch.arange(n, device=generator.device)
    dy, dx = rows - each(centre[:, 0]), columns - each(centre[:, 1])
    edge, r = outline(every, dy, dx)
    distance = r - edge * each(radius)
    u, v = turned_grid(shape, angles(generator, (n,)), centre)
    box = torch.maximum(u.abs() - each(half[:, 0]), v.abs() - each(half[:, 1]))
    distance = torch.where(each(rectangle), box, distance)
    soft = log_uniform(generator, (n,), 1, 0.3 * min(shape)) * chance(generator, (n,), 0.35)
    # a taper starts at the edge and goes inwards
    return torch.where(each(soft) > 1, (-distance / each(soft.clamp(min=1))).clamp(0, 1), coverage(distance))


def brims(n: int, shape: Shape, generator: Generator) -> Tensor:
    """Straight edges (n, H, W) of a sample that fills one side of the frame."""
    u, _ = turned_grid(shape, angles(generator, (n,)))
    where = uniform(generator, (n,), -0.3, 0.3) * min(shape)
    return coverage(u - each(where))


def finish(
    maps: Tensor, generator: Generator, *, isolated: Tensor, inverted: Tensor, brim: Tensor
) -> tuple[Tensor, Tensor]:
    """Complete patterns (n, H, W) in [0, 1].

    Args:
        maps: patterns.
        generator: randomness.
        isolated: (n,) True: a window with empty surroundings; sparse patterns lie on a film there.
        inverted: (n,) True: thick and thin change places.
        brim: (n,) True: the sample ends at a straight edge.

    Returns:
        Maps (n, H, W) in [0, 1], and the extra blur (n,) in px: none for half of them, else up to 2.
    """
    n, shape = len(maps), (maps.shape[1], maps.shape[2])
    maps = torch.where(each(inverted), 1 - maps, maps)
    frame = torch.ones_like(maps)
    for chosen, factor in ((isolated, windows), (brim, brims)):
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            frame[rows] = factor(len(rows), shape, generator)
    # a film carries what would leave a window all but empty, and some membranes with holes
    filled = (maps * frame).sum((1, 2)) / frame.sum((1, 2)).clamp(min=1)
    carried = (isolated & (filled < _SPARSE)) | (inverted & chance(generator, (n,), 0.2))
    film = each(uniform(generator, (n,), 0.1, 0.6) * carried)
    maps = (film + (1 - film) * maps) * frame
    rows = chance(generator, (n,), 0.35).nonzero()[:, 0]
    if len(rows):
        maps[rows] *= texture(len(rows), shape, generator)
    sigma = uniform(generator, (n,), 0, LARGEST_BLUR_PX) * (integers(generator, (n,), 0, 1) > 0)
    rows = (sigma > 0.2).nonzero()[:, 0]
    maps[rows] = blur(maps[rows], sigma[rows])
    return maps, torch.where(sigma > 0.2, sigma, 0.0)
