"""The particles of `saxs2d-oriented`: free coordinates, the lengths and angles they stand for, patterns.

A pattern shows a particle's extent within the detector's plane: a long tilted cylinder looks like a shorter
one. So that posteriors have no curved ridges, the free length is the one seen: L cos(tilt) exp(-s^2 / 2) with
s the spread of the tilt, and for ellipsoids the ratio of the extents seen along and across the axis. The
prior is uniform in these coordinates; their tilt is 90 degrees - theta. An ellipsoid that is extended along a
line is a prolate one along it or an oblate one across it, and only the spread can tell: they are two classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.draws import ClassSpec
from nfphasing_bluesky.modalities.oriented import polar
from nfphasing_bluesky.modalities.oriented.oriented_network import PHI
from nfphasing_bluesky.physics.particles import projected_density, uniaxial

AT_ONCE = 64
"""Patterns that are computed together; their temporaries stay in the cache."""

PD = (0.01, 0.3)
CUT = (2.0, 4.0)
DEGREE = math.pi / 180
OBLATE = 2


def _log(low: float, high: float) -> tuple[float, float]:
    return math.log(low), math.log(high)


TILT = (0.0, 45 * DEGREE)
# of an oblate ellipsoid: sine of the tilt over the ratio seen, which it can't exceed
LEAN = (0.0, 0.9)


def _box(
    name: str, size: tuple[float, float], tilt: tuple[float, float] = TILT, **others: tuple[float, float]
) -> ClassSpec:
    bounds = {
        "log_size": _log(*size),
        "phi": (-math.inf, math.inf),
        "tilt": tilt,
        "log_spread": _log(3 * DEGREE, 30 * DEGREE),
        "log_tilt_spread_ratio": _log(0.5, 1.5),
        **others,
    }
    return ClassSpec(
        name, tuple(bounds), tuple(b[0] for b in bounds.values()), tuple(b[1] for b in bounds.values())
    )


CLASSES = (
    _box("cylinder", (15, 120), log_length=_log(30, 400), polydispersity=PD, cut=CUT),
    _box("prolate_ellipsoid", (10, 80), log_seen_ratio=_log(1.05, 3), polydispersity=PD, cut=CUT),
    _box("oblate_ellipsoid", (20, 150), LEAN, log_seen_ratio=_log(0.2, 0.95), polydispersity=PD, cut=CUT),
    _box(
        "parallelepiped",
        (20, 150),
        log_length=_log(30, 400),
        polydispersity=PD,
        cut=CUT,
        log_side_ratio=_log(1, 4),
    ),
)

LENGTH_COLUMNS = ((0, 5), (0,), (0,), (0, 5))
"""Logarithms of lengths, of each class."""

NAMES = (
    ("radius", "length"),
    ("polar_radius", "equatorial_radius"),
    ("polar_radius", "equatorial_radius"),
    ("side_a", "side_b", "length"),
)
INTENSITY: tuple[Callable[..., Tensor], ...] = (
    uniaxial.cylinder,
    uniaxial.ellipsoid,
    uniaxial.ellipsoid,
    uniaxial.parallelepiped,
)
PROJECTION: tuple[Callable[..., Tensor], ...] = (
    projected_density.cylinder,
    projected_density.ellipsoid,
    projected_density.ellipsoid,
    projected_density.parallelepiped,
)


def tilt(k: int, t: Tensor) -> Tensor:
    """(N,) angle of the axis to the detector's plane, rad, of objects (N, D) of class k."""
    return (t[:, 2] * t[:, 5].exp()).clamp(-1, 1).asin() if k == OBLATE else t[:, 2]


def spreads(t: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) standard deviations of phi and theta, rad."""
    return t[:, 3].exp(), (t[:, 3] + t[:, 4]).exp()


def lengths(k: int, t: Tensor) -> tuple[Tensor, ...]:
    """Lengths of objects (N, D) of class k, angstrom: as `uniaxial` and `projected_density` take them."""
    size = t[:, 0].exp()
    if k == OBLATE:
        ratio2 = (2 * t[:, 5]).exp()
        lean2 = t[:, 2].square()
        return size * (ratio2 * (1 - lean2) / (1 - ratio2 * lean2)).clamp_min(1e-6).sqrt(), size
    seen = t[:, 2].cos() * (-0.5 * spreads(t)[1].square()).exp()
    if k == 1:
        return size * (1 + ((2 * t[:, 5]).exp() - 1) / seen.square()).clamp_min(1e-6).sqrt(), size
    length = t[:, 5].exp() / seen
    if k == 0:
        return size, length
    return (t[:, 0] + t[:, 8] / 2).exp(), (t[:, 0] - t[:, 8] / 2).exp(), length


_RINGS: dict[str, uniaxial.Rings] = {}


def pattern_rings(device: torch.device, dtype: torch.dtype = torch.float64) -> uniaxial.Rings:
    """Moduli of the polar bins, prepared once for each device and dtype."""
    key = f"{device} {dtype}"
    if key not in _RINGS:
        if not _RINGS:
            _RINGS["cpu torch.float64"] = uniaxial.rings(polar.moduli())
        _RINGS[key] = _RINGS["cpu torch.float64"].to(device, dtype)
    return _RINGS[key]


def harmonics(k: int, t: Tensor, q_top: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N, 3 R, K) patterns of objects (N, D) of class k as `polar.synthesised` takes them."""
    rings, parts = pattern_rings(t.device, dtype), []
    for rows in torch.arange(len(t), device=t.device).split(AT_ONCE):
        x, top = t[rows].double(), q_top[rows].double()
        values = INTENSITY[k](rings, *(size * top for size in lengths(k, x)), x[:, 6])
        theta = math.pi / 2 - tilt(k, x)
        parts.append(
            uniaxial.harmonics(rings, uniaxial.multipoles(rings, values), theta, *spreads(x), x[:, 7])
        )
    return torch.cat(parts)


def moved_harmonics(k: int, moved: Tensor, q_top: Tensor) -> Tensor:
    """(N (1 + D), 3 R, K) in float32, of objects (N, 1 + D, D), the i-th after the first moved along i.

    That along phi has the coefficients of the first.
    """
    each = moved.shape[1]
    others = [i for i in range(each) if i != 1 + PHI]
    found = harmonics(k, moved[:, others].flatten(0, 1), q_top.repeat_interleave(each - 1), torch.float32)
    place = [others.index(0 if i == 1 + PHI else i) for i in range(each)]
    return found.unflatten(0, (-1, each - 1))[:, place].flatten(0, 1)
