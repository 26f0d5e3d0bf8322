"""Fractal aggregates of touching balls, grown by cluster-cluster collisions in three dimensions.

Two clusters of equal size meet on a straight path of random direction, aimed so that they hit, and stick
where they first touch; so do the pairs. P. Meakin, J. Colloid Interface Sci. 102, 491 (1984) finds fractal
dimensions near 1.9 for such ballistic growth.
"""

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.objects.draws import Shape, integers, log_uniform, normal, to_peak_one, uniform
from nfphasing_bluesky.physics.objects.particles import Places, render_balls

_FEWEST, _MOST = 3, 7


def grow(radius: Tensor, generator: Generator) -> Tensor:
    """Centres (C, K, 3) of K balls, a power of two, of radii (C, K): each touches one, none overlap."""
    C, K = radius.shape
    centre = torch.zeros(C * K, 1, 3, device=radius.device, dtype=radius.dtype)
    while centre.shape[0] > C:
        pairs = centre.unflatten(0, (-1, 2))
        size = radius.view(-1, 2, centre.shape[1])
        moved = _collide(pairs[:, 0], pairs[:, 1], size[:, 0], size[:, 1], generator)
        centre = torch.cat([pairs[:, 0], moved], 1)
        centre = centre - centre.mean(1, keepdim=True)
    return centre


def _collide(a: Tensor, b: Tensor, radius_a: Tensor, radius_b: Tensor, generator: Generator) -> Tensor:
    """Where cluster b (N, k, 3) stops that comes straight at a."""
    N, k = radius_a.shape
    index = torch.arange(N, device=a.device)
    i, j = integers(generator, (N,), 0, k - 1), integers(generator, (N,), 0, k - 1)
    path = torch.nn.functional.normalize(normal(generator, (N, 3)), dim=1).to(a)
    # ball j of b is aimed at ball i of a, within the sum of their radii
    miss = torch.nn.functional.normalize(normal(generator, (N, 3)), dim=1).to(a)
    miss = miss * uniform(generator, (N, 1)).to(a).sqrt() * (radius_a[index, i] + radius_b[index, j])[:, None]
    start = b + (a[index, i] - b[index, j] + miss)[:, None]
    apart = start[:, None] - a[:, :, None]
    along = (apart * path[:, None, None]).sum(-1)
    contact2 = (radius_a[:, :, None] + radius_b[:, None]).square()
    root = along.square() - apart.square().sum(-1) + contact2
    reached = torch.where(root >= 0, root.clamp(min=0).sqrt() - along, -torch.inf)
    return start + reached.amax((1, 2))[:, None, None] * path[:, None]


def aggregates(n: int, shape: Shape, generator: Generator) -> Tensor:
    """One to three aggregates of 8 to 128 balls of 1.2 px or more, seen in projection."""
    H, W = shape
    device = generator.device
    clusters = integers(generator, (n,), -2, 3).clamp(min=1)
    power = integers(generator, (n,), _FEWEST, _MOST)
    spread = uniform(generator, (n, 1), 0, 0.35)
    span = log_uniform(generator, (n,), 0.3, 1.1) * min(shape) / clusters.sqrt()
    owners, centres, radii = [], [], []
    for p in range(_FEWEST, _MOST + 1):
        kin = (power == p).nonzero()[:, 0].repeat_interleave(clusters[power == p])
        radius = torch.exp((spread[kin] * normal(generator, (len(kin), 2**p))).clamp(-1, 1))
        centre = grow(radius, generator)
        flat = centre[:, :, :2]
        scale = span[kin] / (flat.amax(1) - flat.amin(1) + 2).amax(1)
        scale = scale.clamp(min=1.2)
        place = uniform(generator, (len(kin), 1, 2), -0.3, 0.3) * (clusters[kin, None, None] > 1)
        place = place + uniform(generator, (len(kin), 1, 2), -0.12, 0.12) + 0.5
        frame = torch.tensor([H - 1, W - 1], device=device)
        owners.append(kin.repeat_interleave(2**p))
        centres.append((place * frame + flat * scale[:, None, None]).flatten(0, 1))
        radii.append((radius * scale[:, None]).flatten())
    places = Places(torch.cat(owners), torch.cat(centres), torch.cat(radii))
    return to_peak_one(render_balls(places, n, shape, torch.zeros_like(places.radius)))
