"""Families of random bodies, in arbitrary units of length, and the draws of the p(r) prior.

Each family maps (n, generator) to `Primitives` of n bodies on the generator's device.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.shapes.solids import Primitives, coefficients_of

Family = Callable[[int, Generator], Primitives]

_CHUNK = 32
_BEADS = 60


def sample_shapes(n: int, generator: Generator, coefficients: int) -> Tensor:
    """(n, K) sine coefficients of sqrt p(x) of random bodies, unit area, on the generator's device."""
    names = list(FAMILIES)
    share = torch.tensor([FAMILIES[name][1] for name in names], device=generator.device)
    family = torch.multinomial(share, n, replacement=True, generator=generator) if n else share[:0].long()
    result = torch.empty(n, coefficients, device=generator.device)
    for i, name in enumerate(names):
        rows = (family == i).nonzero()[:, 0]
        for part in rows.split(_CHUNK) if len(rows) else ():
            body = FAMILIES[name][0](len(part), generator)
            result[part] = coefficients_of(body, generator, coefficients)
    return result


def globules(n: int, generator: Generator) -> Primitives:
    """Single ellipsoids, from spheres to 1 : 2.5."""
    axes = torch.exp(_uniform(generator, (n, 1, 3), -0.45, 0.45) * _uniform(generator, (n, 1, 1), 0, 1))
    return _ellipsoids(torch.zeros_like(axes), axes, generator)


def clusters(n: int, generator: Generator) -> Primitives:
    """Two to eight ellipsoids, each overlapping or touching one before it."""
    P = 8
    axes = torch.exp(0.3 * _normal(generator, (n, P, 3)) + 0.25 * _normal(generator, (n, P, 1)))
    size = axes.mean(-1)
    reach = _uniform(generator, (n, 1), 0.45, 1.0)
    direction = torch.nn.functional.normalize(_normal(generator, (n, P, 3)), dim=-1)
    centre = torch.zeros(n, P, 3, device=generator.device)
    parents = torch.rand(n, P, generator=generator, device=generator.device)
    for i in range(1, P):
        parent = (parents[:, i] * i).long()[:, None]
        step = reach * (size[:, i, None] + size.gather(1, parent))
        base = centre.gather(1, parent[..., None].expand(-1, -1, 3))[:, 0]
        centre[:, i] = base + step * direction[:, i]
    count = torch.randint(2, P + 1, (n, 1), generator=generator, device=generator.device)
    return _ellipsoids(centre, axes, generator, torch.arange(P, device=generator.device) < count)


def chains(n: int, generator: Generator) -> Primitives:
    """Bead chains of 4 to 60 beads: stiff (rod-like), flexible (disordered) or pulled together (compact)."""
    device = generator.device
    stiffness = _uniform(generator, (n, 1), 0, 1) ** 0.5 * 4
    pull = torch.relu(_uniform(generator, (n, 1), -0.6, 1.0))
    heading = torch.nn.functional.normalize(_normal(generator, (n, 3)), dim=-1)
    at, path = torch.zeros(n, 3, device=device), []
    for _ in range(_BEADS):
        path.append(at)
        turn = _normal(generator, (n, 3)) - pull * at
        heading = torch.nn.functional.normalize(stiffness * (1 - pull) * heading + turn, dim=-1)
        at = at + heading
    radius = _uniform(generator, (n, 1, 1), 0.5, 1.4).expand(n, _BEADS, 3)
    count = torch.exp(_uniform(generator, (n, 1), 1.4, 4.1)).long().clamp(4, _BEADS)
    return _ellipsoids(torch.stack(path, 1), radius, generator, torch.arange(_BEADS, device=device) < count)


def shells(n: int, generator: Generator) -> Primitives:
    """Spherical and ellipsoidal shells, the inside empty or of lower density."""
    squash = torch.exp(_uniform(generator, (n, 1, 3), -0.4, 0.4) * _uniform(generator, (n, 1, 1), 0, 1))
    hollow = _uniform(generator, (n, 1), 0.3, 0.97)
    axes = torch.cat([squash, squash * hollow[..., None]], 1)
    filled = _uniform(generator, (n, 1), -0.7, 0.7).clamp(min=0)
    body = _ellipsoids(torch.zeros_like(axes), axes, generator)
    rotation = body.rotation[:, :1].expand(-1, 2, -1, -1)
    density = torch.cat([torch.ones_like(filled), filled], 1)
    hollow = torch.cat([hollow, torch.zeros_like(hollow)], 1)
    return Primitives(body.centre, axes, rotation, hollow, body.cylinder, density)


def tubes(n: int, generator: Generator) -> Primitives:
    """Hollow cylinders, short (rings) to long."""
    return _cylinders(n, generator, _uniform(generator, (n, 1), -2.0, 1.8), 0.95)


def rods_and_discs(n: int, generator: Generator) -> Primitives:
    """Solid cylinders of aspect 1 : 20 to 30 : 1."""
    return _cylinders(n, generator, _uniform(generator, (n, 1), -3.0, 3.4), 0.0)


def tori(n: int, generator: Generator) -> Primitives:
    """Ring-shaped chains of overlapping beads, round or elliptic."""
    P, device = 40, generator.device
    angle = torch.arange(P, device=device) * (2 * torch.pi / P)
    oval = torch.exp(_uniform(generator, (n, 1), -0.5, 0.5))
    centre = torch.stack([oval * angle.cos(), angle.sin().expand(n, P), torch.zeros(n, P, device=device)], -1)
    axes = torch.exp(_uniform(generator, (n, 1, 1), -1.8, -0.4)).expand(n, P, 3)
    return _ellipsoids(centre, axes, generator)


def domains(n: int, generator: Generator) -> Primitives:
    """Two or three domains on a line that bends, joined by thin linkers."""
    device = generator.device
    axes = torch.exp(0.3 * _normal(generator, (n, 3, 3)))
    gap = _uniform(generator, (n, 2, 1), 1.6, 4.5)
    heading = torch.nn.functional.normalize(_normal(generator, (n, 2, 3)) + 0.5, dim=-1)
    centre = torch.cat([torch.zeros(n, 1, 3, device=device), (heading * gap).cumsum(1)], 1)
    present = torch.rand(n, 1, generator=generator, device=device) < torch.tensor(
        [1.0, 1.0, 0.4], device=device
    )
    linked = (torch.rand(n, 1, generator=generator, device=device) < 0.5) & present[:, 1:]
    thin = _uniform(generator, (n, 1, 1), 0.1, 0.35).expand(n, 2, 1)
    body = _ellipsoids(centre, axes, generator, present)
    return Primitives(
        torch.cat([centre, (centre[:, 1:] + centre[:, :-1]) / 2], 1),
        torch.cat([axes, torch.cat([thin, thin, gap / 2], -1)], 1),
        torch.cat([body.rotation, _frame_along(heading)], 1),
        torch.zeros(n, 5, device=device),
        torch.tensor([False] * 3 + [True] * 2, device=device).expand(n, 5),
        torch.cat([present, linked], 1).float(),
    )


def oligomers(n: int, generator: Generator) -> Primitives:
    """Assemblies of 2 to 6 equal monomers of one to three ellipsoids, with symmetry C2 to C6 or D2."""
    device, lobes, copies = generator.device, 3, 6
    order = torch.randint(2, 8, (n, 1), generator=generator, device=device)
    dihedral = order == 7
    count = torch.where(dihedral, 4, order)
    rotation = _symmetry(count, dihedral, copies)
    # the monomers of an n-fold ring touch at radius size / sin(pi / n)
    radius = _uniform(generator, (n, 1), 0.6, 1.05) / torch.sin(torch.pi / count)
    offset = torch.cat([radius, torch.zeros(n, 1, device=device), _uniform(generator, (n, 1), 0.3, 0.9)], 1)
    axes = torch.exp(0.2 * _normal(generator, (n, lobes, 3)))
    centre = offset[:, None] + 0.9 * _normal(generator, (n, lobes, 3)) * torch.tensor(
        [[0.0], [1.0], [1.0]], device=device
    )
    some = torch.arange(lobes, device=device) < torch.randint(
        1, lobes + 1, (n, 1), generator=generator, device=device
    )
    own = _rotations(generator, (n, lobes))
    present = (torch.arange(copies, device=device) < count)[:, :, None] & some[:, None]
    flat = (n, copies * lobes)
    return Primitives(
        (rotation[:, :, None] @ centre[:, None, :, :, None])[..., 0].reshape(*flat, 3),
        axes[:, None].expand(n, copies, lobes, 3).reshape(*flat, 3),
        (rotation[:, :, None] @ own[:, None]).reshape(*flat, 3, 3),
        torch.zeros(flat, device=device),
        torch.zeros(flat, dtype=torch.bool, device=device),
        present.reshape(flat).float(),
    )


FAMILIES: dict[str, tuple[Family, float]] = {
    "globules": (globules, 0.14),
    "clusters": (clusters, 0.22),
    "chains": (chains, 0.20),
    "shells": (shells, 0.08),
    "tubes": (tubes, 0.05),
    "rods and discs": (rods_and_discs, 0.09),
    "tori": (tori, 0.03),
    "domains": (domains, 0.07),
    "oligomers": (oligomers, 0.12),
}
"""Name -> (family, share of the prior)."""


def _uniform(generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _normal(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _rotations(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Uniformly random rotation matrices (*shape, 3, 3), from unit quaternions."""
    w, x, y, z = torch.nn.functional.normalize(_normal(generator, (*shape, 4)), dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def _frame_along(direction: Tensor) -> Tensor:
    """Rotations (..., 3, 3) whose third column is the unit vector (..., 3)."""
    smallest = torch.nn.functional.one_hot(direction.abs().argmin(-1), 3).to(direction.dtype)
    first = torch.nn.functional.normalize(torch.linalg.cross(direction, smallest), dim=-1)
    return torch.stack([first, torch.linalg.cross(direction, first), direction], -1)


def _symmetry(count: Tensor, dihedral: Tensor, copies: int) -> Tensor:
    """(n, copies, 3, 3) operations of C_count, or of D2 where dihedral (rotations about z, then about x)."""
    i = torch.arange(copies, device=count.device).expand(count.shape[0], copies)
    fold = torch.where(dihedral, 2, count)
    angle = 2 * torch.pi * i / fold
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    about_z = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).unflatten(-1, (3, 3))
    flip = torch.where(dihedral & (i >= 2), -1.0, 1.0)
    about_x = torch.diag_embed(torch.stack([one, flip, flip], -1))
    return about_z @ about_x


def _ellipsoids(
    centre: Tensor, axes: Tensor, generator: Generator, present: Tensor | None = None
) -> Primitives:
    n, P = centre.shape[:2]
    shape = (n, P)
    density = torch.ones(shape, device=centre.device) if present is None else present.float().expand(shape)
    empty = torch.zeros(shape, device=centre.device)
    return Primitives(centre, axes, _rotations(generator, shape), empty, empty.bool(), density)


def _cylinders(n: int, generator: Generator, log_aspect: Tensor, hollow: float) -> Primitives:
    """Cylinders of half height over radius exp(log_aspect), up to `hollow` of the radius empty."""
    one = torch.ones_like(log_aspect)
    oval = torch.exp(_uniform(generator, (n, 1), -0.3, 0.3))
    axes = torch.stack([oval, 1 / oval, log_aspect.exp()], -1)
    empty = _uniform(generator, (n, 1), 0.3, 1) * hollow
    centre = torch.zeros(n, 1, 3, device=generator.device)
    return Primitives(centre, axes, _rotations(generator, (n, 1)), empty, one.bool(), one)
