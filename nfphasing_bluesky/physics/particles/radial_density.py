"""Spherically averaged density, radius of gyration, largest distance and volume of the particles.

Densities are those of the mean particle over solvent with the core (or the homogeneous particle) at 1: r is
(R,) or (B, R) in angstrom, the result (B, R). Lengths are (B,) in angstrom. Radii of gyration are those a
Guinier plot of the polydisperse sample shows (z-averages, root of <Rg^2>_z).
"""

import torch
from torch import Tensor

from nfphasing_bluesky.physics.particles import schulz


def sphere(r: Tensor, radius: Tensor) -> Tensor:
    """1 inside, 0 outside."""
    return (r <= radius[:, None]).to(radius.dtype)


def core_shell_sphere(
    r: Tensor, core_radius: Tensor, shell_thickness: Tensor, contrast_ratio: Tensor
) -> Tensor:
    """1 in the core, `contrast_ratio` in the shell, 0 outside."""
    core = sphere(r, core_radius)
    return core + contrast_ratio[:, None] * (sphere(r, core_radius + shell_thickness) - core)


def ellipsoid(r: Tensor, polar_radius: Tensor, equatorial_radius: Tensor) -> Tensor:
    """Fraction of the sphere of radius r that lies inside the ellipsoid."""
    polar, equatorial = polar_radius[:, None], equatorial_radius[:, None]
    low, high = torch.minimum(polar, equatorial), torch.maximum(polar, equatorial)
    r = r.clamp(min=1e-12)
    # the surface cuts the sphere at cosine u to the axis: 1 / r^2 = (1 - u^2) / equatorial^2 + u^2 / polar^2
    span = equatorial**-2 - polar**-2
    safe = torch.where(span == 0, torch.ones_like(span), span)
    cut = ((equatorial**-2 - r**-2) / safe).clamp(0, 1).sqrt()
    between = torch.where(polar >= equatorial, 1 - cut, cut)
    return torch.where(r <= low, 1.0, torch.where(r >= high, 0.0, between))


def cylinder(r: Tensor, radius: Tensor, length: Tensor) -> Tensor:
    """Fraction of the sphere of radius r that lies inside the cylinder."""
    r = r.clamp(min=1e-12)
    top = (length[:, None] / (2 * r)).clamp(max=1)
    side = (1 - (radius[:, None] / r).square()).clamp(min=0).sqrt()
    return (top - side).clamp(min=0)


def sphere_rg(radius: Tensor, polydispersity: Tensor) -> Tensor:
    """Rg^2 = 3/5 <R^8> / <R^6>."""
    v = polydispersity.square()
    return radius * (0.6 * (1 + 6 * v) * (1 + 7 * v)).sqrt()


def core_shell_sphere_rg2(core_radius: Tensor, shell_thickness: Tensor, contrast_ratio: Tensor) -> Tensor:
    """Rg^2 of the mean particle; negative or huge where the contrasts nearly match out."""
    outer = core_radius + shell_thickness
    w = 1 - contrast_ratio
    fifth = w * core_radius**5 + contrast_ratio * outer**5
    return 0.6 * fifth / (w * core_radius**3 + contrast_ratio * outer**3)


def ellipsoid_rg(polar_radius: Tensor, equatorial_radius: Tensor, polydispersity: Tensor) -> Tensor:
    """Rg^2 = (polar^2 + 2 equatorial^2) / 5, times <t^8> / <t^6>."""
    v = polydispersity.square()
    mean = (polar_radius.square() + 2 * equatorial_radius.square()) / 5
    return (mean * (1 + 6 * v) * (1 + 7 * v)).sqrt()


def cylinder_rg(radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """Rg^2 = <R^6> / <R^4> / 2 + length^2 / 12."""
    v = polydispersity.square()
    return (radius.square() * (1 + 4 * v) * (1 + 5 * v) / 2 + length.square() / 12).sqrt()


def sphere_d_max(radius: Tensor) -> Tensor:
    """Diameter of the mean sphere."""
    return 2 * radius


def ellipsoid_d_max(polar_radius: Tensor, equatorial_radius: Tensor) -> Tensor:
    """Longer axis of the mean ellipsoid."""
    return 2 * torch.maximum(polar_radius, equatorial_radius)


def cylinder_d_max(radius: Tensor, length: Tensor) -> Tensor:
    """Diagonal of the mean cylinder."""
    return (4 * radius.square() + length.square()).sqrt()


def sphere_volumes(radius: Tensor, polydispersity: Tensor) -> tuple[Tensor, Tensor]:
    """<V> and <V^2> in angstrom^3 and angstrom^6; serves the ellipsoid with its volume-equivalent radius."""
    v = schulz.relative_variance(polydispersity).to(radius.dtype)
    mean = 4 / 3 * torch.pi * radius**3
    return mean * schulz.moment(3, v), mean.square() * schulz.moment(6, v)


def ellipsoid_volumes(
    polar_radius: Tensor, equatorial_radius: Tensor, polydispersity: Tensor
) -> tuple[Tensor, Tensor]:
    """<V> and <V^2> in angstrom^3 and angstrom^6."""
    return sphere_volumes((polar_radius * equatorial_radius.square()).pow(1 / 3), polydispersity)


def cylinder_volumes(radius: Tensor, length: Tensor, polydispersity: Tensor) -> tuple[Tensor, Tensor]:
    """<V> and <V^2> in angstrom^3 and angstrom^6."""
    v = schulz.relative_variance(polydispersity).to(radius.dtype)
    mean = torch.pi * radius.square() * length
    return mean * schulz.moment(2, v), mean.square() * schulz.moment(4, v)
