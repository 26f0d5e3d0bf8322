"""Form factors of bodies of revolution on a plane: spheres, spheroids, truncated spheres, cylinders, cones.

A body is a pile of discs. With the radius r(z) of the disc at height z over its base,

    F(q_parallel, q_z) = int_0^h pi r^2 [2 J1(q_parallel r) / (q_parallel r)] exp(i q_z z) dz,

which holds for complex q_z too, as in an absorbing layer. pi r^2 2 J1(x) / x is a smooth function of r^2, and
r^2 a polynomial in z: Gauss-Legendre sums converge at once.
R. Lazzari, J. Appl. Cryst. 35, 406 (2002).

Dimension letters: N samples, S sizes, M discs, K lengths of q_parallel.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.physics.saxs2d import disc_amplitude


class Shape(StrEnum):
    """Of a body of revolution."""

    SPHERE = "sphere"
    SPHEROID = "spheroid"
    TRUNCATED_SPHERE = "truncated_sphere"
    CYLINDER = "cylinder"
    CONE = "cone"


@dataclass(frozen=True)
class Bodies:
    """Bodies of S sizes in each of N samples.

    Args:
        shape: of all.
        radius: (N, S) angstrom; of a cone at its base, of a spheroid in the plane.
        height: (N, S) angstrom; of a whole sphere twice its radius, of a truncated one less: its base is cut.
            Spheroids, their axes upright, have any.
        side_rad: (N, S) angle between the side of a cone and its base; None for other shapes.
    """

    shape: Shape
    radius: Tensor
    height: Tensor
    side_rad: Tensor | None = None

    def __post_init__(self) -> None:
        if self.radius.ndim != 2 or self.radius.shape != self.height.shape:
            raise ValueError(
                f"radius and height have shapes {tuple(self.radius.shape)} and {tuple(self.height.shape)}, "
                "expected (N, S) both"
            )
        if (self.shape is Shape.CONE) != (self.side_rad is not None):
            raise ValueError(f"side_rad belongs to cones, these are of shape {self.shape}")
        if self.shape is Shape.TRUNCATED_SPHERE and bool((self.height > 2 * self.radius * (1 + 1e-9)).any()):
            raise ValueError("a truncated sphere is higher than twice its radius")
        if self.side_rad is not None and bool(
            (self.height > self.radius * self.side_rad.tan() * (1 + 1e-9)).any()
        ):
            raise ValueError("a cone is higher than radius * tan(side_rad), where its sides meet")

    def disc_radius(self, fraction: Tensor) -> Tensor:
        """(N, S, M) radius of the discs at fractions (M,) or (N, S, M) of the height, angstrom."""
        radius = self.radius[..., None]
        height = self.height[..., None]
        if self.shape is Shape.CYLINDER:
            return radius * torch.ones_like(fraction)
        if self.shape is Shape.SPHEROID:
            return 2 * radius * (fraction * (1 - fraction)).sqrt()
        if self.side_rad is not None:
            return radius - fraction * height / self.side_rad.tan()[..., None]
        below_top = (1 - fraction) * height
        return (below_top * (2 * radius - below_top)).sqrt()

    def discs(self, fraction: Tensor, q_parallel: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(N, S, M, K) amplitude per height of discs, angstrom^2.

        Args:
            fraction: (M,) of the height.
            q_parallel: (K,) of all samples, or (N, 1, 1, K).
            dtype: of the result; that of the bodies by default.
        """
        r = self.disc_radius(fraction)[..., None].to(dtype or self.radius.dtype)
        q_parallel = q_parallel.to(dtype or q_parallel.dtype)
        return math.pi * r.square() * disc_amplitude(r * q_parallel)


def whole_spheres(radius: Tensor) -> Bodies:
    """Spheres of radius (N, S), angstrom."""
    return Bodies(Shape.SPHERE, radius, 2 * radius)


@lru_cache(maxsize=32)
def quadrature(discs: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre places and weights (M,) on 0..1, float64."""
    place, weight = np.polynomial.legendre.leggauss(discs)
    return torch.as_tensor(0.5 * (1 + place)), torch.as_tensor(0.5 * weight)


def form_factor(bodies: Bodies, q_parallel: Tensor, q_z: Tensor, discs: int = 64) -> Tensor:
    """(N, S, K) complex form factor at pairs q_parallel (K,) and complex q_z (K,), 1/angstrom; angstrom^3."""
    place, weight = (v.to(bodies.radius.device) for v in quadrature(discs))
    height = bodies.height[..., None].double()
    phase = torch.exp(1j * (height * place)[..., None] * q_z.to(torch.complex128))
    area = bodies.discs(place, q_parallel.double())
    return (area * phase * (weight * height)[..., None]).sum(2)


def volume(bodies: Bodies) -> Tensor:
    """(N, S) angstrom^3."""
    place, weight = (v.to(bodies.radius) for v in quadrature(4))
    return math.pi * (bodies.disc_radius(place).square() * weight).sum(-1) * bodies.height
