"""What particles scatter into a pair of cuts: their rays, averaged over the cuts' bands.

Dimension letters: N samples, Q = Q1 + Q2 points, L exit angles of a band, G |q_y| of a band, M rays.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.modalities.grazing.cut_curves import IN_PLANE, OUT_OF_PLANE
from nfphasing_bluesky.modalities.grazing.particle_prior import OFFSET, QUANTITIES, ParticleSample, sample_of
from nfphasing_bluesky.physics.grazing.dwba_rays import (
    Spheroids,
    Waves,
    lit,
    ray_amplitudes,
    ray_basis,
    ray_intensity,
    waves_in,
)
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.reflectivity import wave_fields

LOWEST_RAD = 1e-6
AT_ONCE, VALUES_AT_ONCE = 256, 60_000
"""Samples at once whose waves are computed; sizes times rays of those that then fit into a cache."""


class Detail(NamedTuple):
    """How finely cuts are computed: sizes of particles, exit angles and |q_y| within the bands."""

    sizes: int
    levels: int
    nodes: int


FINE = Detail(16, 6, 4)
"""Within 1 % where a cut is strong, but for one sample in some dozens: sharp resonances of thick films."""


class Rays(NamedTuple):
    """Rays of N pairs of cuts.

    Attributes:
        level: (N, L + Q2) exit angles, rad; of the in-plane cut's band first.
        q: (N, M) length of q in the plane, 1/angstrom; (L, Q1) of the first cut, then (Q2, G).
        incidence: (N,) rad.
    """

    level: Tensor
    q: Tensor
    incidence: Tensor


@lru_cache(maxsize=16)
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places on 0..1 and weights (count,), of sum 1."""
    place, weight = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor(0.5 * (1 + place)), torch.as_tensor(0.5 * weight)


def rays_of(packed: Tensor, offset_rad: Tensor, detail: Detail) -> Rays:
    """Rays of pairs whose points and beam are packed (N, Q + 6), the surface turned by an offset (N,)."""
    q_y, exits, beam = packed.double().split([IN_PLANE, OUT_OF_PLANE, 6], 1)
    k, incidence, low, high, q_low, q_high = beam.unbind(1)
    incidence = incidence + offset_rad
    place = _legendre(detail.levels)[0].to(packed.device)
    band = torch.lerp(low[:, None], high[:, None], place)
    level = torch.cat([band, exits], 1) - offset_rad[:, None]
    place = _legendre(detail.nodes)[0].to(packed.device)
    across = torch.lerp(q_low[:, None], q_high[:, None], place)
    first = _in_plane(level[:, : detail.levels, None], q_y[:, None], k, incidence)
    second = _in_plane(level[:, detail.levels :, None], across[:, None], k, incidence)
    return Rays(level, torch.cat([first.flatten(1), second.flatten(1)], 1), incidence)


def _in_plane(level: Tensor, q_y: Tensor, k: Tensor, incidence: Tensor) -> Tensor:
    """Length of q in the plane, at exit angles (N, A, 1) and q_y (N, 1 or A, C)."""
    k = k[:, None, None]
    forward = (level.cos().square() - (q_y / k).square()).clamp_min(0.0).sqrt()
    return torch.hypot(k * (forward - incidence.cos()[:, None, None]), q_y)


def cuts(theta: Tensor, kind: int, packed: Tensor, detail: Detail = FINE) -> Tensor:
    """(N, Q) scattering of samples of one class, of root mean square 1 over the points; differentiable.

    Args:
        theta: (N, D) in 0..1; its dtype is that of the rays, waves are computed in float64.
        kind: class.
        packed: (N, Q + 6), `CutsBatch.q`.
        detail: of the calculation.
    """
    if not (torch.is_grad_enabled() and theta.requires_grad) and len(theta) > AT_ONCE:
        parts = zip(theta.split(AT_ONCE), packed.split(AT_ONCE), strict=True)
        return torch.cat([cuts(some, kind, places, detail) for some, places in parts])
    sample = sample_of(theta.double(), kind, detail.sizes)
    rays = rays_of(packed, sample.offset_rad, detail)
    return _finished(along(sample, rays, wave_numbers(packed), theta.dtype), rays, detail)


def wave_numbers(packed: Tensor) -> Tensor:
    """(N, 1) of the beam, 1/angstrom."""
    return packed[:, IN_PLANE + OUT_OF_PLANE, None].double()


def _finished(found: Tensor, rays: Rays, detail: Detail) -> Tensor:
    """(N, Q) averages over the bands, of root mean square 1 over the points."""
    found = _averaged(found, rays, detail)
    largest = found.detach().amax(1, keepdim=True).clamp_min(1e-30)
    found = found / largest
    return found / found.square().mean(1, keepdim=True).clamp_min(1e-12).sqrt()


class Lights(NamedTuple):
    """Waves in the layer of the particles: the incoming one (N, 1), outgoing ones at levels (N, L + Q2)."""

    incoming: Waves
    outgoing: Waves

    @classmethod
    def of(cls, sample: ParticleSample, rays: Rays, k: Tensor) -> "Lights":
        """Waves for a beam of wave number k (N, 1)."""
        incoming = wave_fields(sample.stack, 2 * k * rays.incidence[:, None].sin())
        outgoing = wave_fields(sample.stack, 2 * k * rays.level.clamp_min(LOWEST_RAD).sin())
        return cls(waves_in(incoming, sample.layer), waves_in(outgoing, sample.layer))

    def at(self, rows: slice, rays: Rays) -> "Lights":
        """Those of some samples, the outgoing ones along rays (N, M)."""
        levels = rays.level.shape[1] - OUT_OF_PLANE
        nodes = (rays.q.shape[1] - levels * IN_PLANE) // OUT_OF_PLANE
        times = torch.tensor([IN_PLANE] * levels + [nodes] * OUT_OF_PLANE, device=rays.q.device)
        outgoing = (w[rows].repeat_interleave(times, 1) for w in self.outgoing)
        return Lights(Waves(*(w[rows] for w in self.incoming)), Waves(*outgoing))


def along(sample: ParticleSample, rays: Rays, k: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, M) intensity along rays, angstrom^6 a particle; `k` is (N, 1)."""
    lights, q = Lights.of(sample, rays, k), rays.q.to(dtype)
    together = torch.is_grad_enabled() and sample.offset_rad.requires_grad
    step = len(q) if together else _step(sample, q)
    found = []
    for rows in _slices(len(q), step):
        bodies, (incoming, outgoing) = bodies_at(sample, rows), lights.at(rows, rays)
        amplitude = ray_amplitudes(bodies, incoming, outgoing, q[rows])
        found.append(ray_intensity(bodies, order_at(sample, rows), amplitude, q[rows]))
    return torch.cat(found).clamp_min(0.0)


def _step(sample: ParticleSample, q: Tensor) -> int:
    return max(1, VALUES_AT_ONCE // (sample.bodies.radius.shape[1] * q.shape[1]))


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(first, first + step) for first in range(0, count, step))


def bodies_at(sample: ParticleSample, rows: slice) -> Spheroids:
    """Bodies of some samples."""
    return Spheroids(*(v[rows] for v in vars(sample.bodies).values()))


def order_at(sample: ParticleSample, rows: slice) -> Paracrystal:
    """Order of some samples."""
    order = sample.order
    coupling = None if order.coupling is None else order.coupling[rows]
    return Paracrystal(order.distance[rows], order.disorder[rows], order.damping[rows], coupling=coupling)


ORDER = frozenset({"relative_distance", "relative_disorder", "relative_damping", "root_coupling"})
"""Coordinates that change the places of the particles alone."""
LIGHT = frozenset(
    {
        "substrate_density",
        "substrate_absorption",
        "substrate_roughness",
        "lower_thickness",
        "lower_density",
        "lower_absorption",
        "surface_roughness",
        "interface_roughness",
    }
)
"""Coordinates that change the amplitudes of the waves alone, not their wave vectors at the particles."""


def moved_cuts(moved: Tensor, kind: int, packed: Tensor, detail: Detail) -> Tensor:
    """(N, 1 + D, Q) `cuts` of samples and of those moved along each coordinate: what does not change is kept.

    Args:
        moved: (N, 1 + D, D) in 0..1, the first at the sample.
        kind: class.
        packed: (N, Q + 6), `CutsBatch.q`.
        detail: of the calculation.
    """
    names = ("", *(q.name for q in QUANTITIES[kind]))
    samples = [sample_of(theta.double(), kind, detail.sizes) for theta in moved.unbind(1)]
    own = rays_of(packed, samples[0].offset_rad, detail)
    k, dtype = wave_numbers(packed), moved.dtype
    rays = [
        rays_of(packed, s.offset_rad, detail) if n == OFFSET.name else own
        for n, s in zip(names, samples, strict=True)
    ]
    lights = {i: Lights.of(samples[i], rays[i], k) for i, name in enumerate(names) if name not in ORDER}
    found: list[list[Tensor]] = [[] for _ in names]
    for rows in _slices(len(packed), _step(samples[0], own.q)):
        incoming, outgoing = lights[0].at(rows, own)
        q = own.q[rows].to(dtype)
        basis = ray_basis(bodies_at(samples[0], rows), incoming.k, outgoing.k, q)
        kept = lit(basis, incoming, outgoing, dtype)
        for i, name in enumerate(names):
            bodies, amplitude = bodies_at(samples[i], rows), kept
            q = rays[i].q[rows].to(dtype)
            if i and name not in ORDER:
                incoming, outgoing = lights[i].at(rows, rays[i])
                amplitude = (
                    lit(basis, incoming, outgoing, dtype)
                    if name in LIGHT
                    else ray_amplitudes(bodies, incoming, outgoing, q)
                )
            found[i].append(ray_intensity(bodies, order_at(samples[i], rows), amplitude, q).clamp_min(0.0))
    parts = (_finished(torch.cat(some), seen, detail) for some, seen in zip(found, rays, strict=True))
    return torch.stack(list(parts), 1)


def _averaged(found: Tensor, rays: Rays, detail: Detail) -> Tensor:
    """(N, Q) means over the bands; what lies below the horizon is dark."""
    above = (rays.level > 0).to(found)
    split = detail.levels * IN_PLANE
    first = found[:, :split].unflatten(1, (detail.levels, IN_PLANE)) * above[:, : detail.levels, None]
    second = found[:, split:].unflatten(1, (OUT_OF_PLANE, detail.nodes)) * above[:, detail.levels :, None]
    over, across = (_legendre(n)[1].to(found) for n in (detail.levels, detail.nodes))
    return torch.cat([(first * over[:, None]).sum(1), (second * across).sum(2)], 1)
