"""Small-angle scattering of four particle classes, dilute, each with a Schulz size distribution.

Dimension letters: B batch, Q points of the curve. q is (Q,) or (B, Q) in 1/angstrom; lengths are (B,) in
angstrom; polydispersity is the relative standard deviation of the number distribution, 0 to 0.5. Form factors
return P(q) = <F^2(q)> / <F^2(0)>, (B, Q), in the dtype of the parameters; inside it is float64, because the
closed forms cancel. All are differentiable in q and the parameters.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.physics.particles import schulz
from nfphasing_bluesky.physics.particles.core_shell import CoreShell
from nfphasing_bluesky.physics.particles.disc import DiscTable
from nfphasing_bluesky.physics.particles.orientation import orientation_average

_MATCHED = 1e-12
"""Forward scattering below this fraction of a homogeneous particle's counts as matched out."""


def sphere(q: Tensor, radius: Tensor, polydispersity: Tensor) -> Tensor:
    """Homogeneous spheres of mean radius `radius`."""
    q64, variance = _batch(q, radius), schulz.relative_variance(polydispersity)
    return schulz.sphere_average(q64 * radius.double()[:, None], variance[:, None]).to(radius.dtype)


def core_shell_sphere(
    q: Tensor,
    core_radius: Tensor,
    shell_thickness: Tensor,
    contrast_ratio: Tensor,
    polydispersity: Tensor,
    shell_polydispersity: Tensor | None = None,
) -> Tensor:
    """Core-shell spheres; core radius and shell thickness are distributed independently.

    `contrast_ratio` is (sld_shell - sld_solvent) / (sld_core - sld_solvent), any real number. Where core and
    shell match each other out exactly, P is relative to 1e-12 of a homogeneous sphere instead of to P(0) = 0.
    `shell_polydispersity` None is 0.
    """
    size = _core_shell(core_radius, shell_thickness, contrast_ratio, polydispersity, shell_polydispersity)
    raw = size(_batch(q, core_radius))
    return (raw / size.forward().clamp(min=_MATCHED)[:, None]).to(core_radius.dtype)


def core_shell_sphere_unnormalised(
    q: Tensor,
    core_radius: Tensor,
    shell_thickness: Tensor,
    contrast_ratio: Tensor,
    polydispersity: Tensor,
    shell_polydispersity: Tensor | None = None,
) -> Tensor:
    """<F^2(q)> over that of a homogeneous sphere of radius R + d with the core's contrast at q = 0."""
    size = _core_shell(core_radius, shell_thickness, contrast_ratio, polydispersity, shell_polydispersity)
    return size(_batch(q, core_radius)).to(core_radius.dtype)


def core_shell_sphere_forward(
    core_radius: Tensor,
    shell_thickness: Tensor,
    contrast_ratio: Tensor,
    polydispersity: Tensor,
    shell_polydispersity: Tensor | None = None,
) -> Tensor:
    """(B,) `core_shell_sphere_unnormalised` at q = 0."""
    size = _core_shell(core_radius, shell_thickness, contrast_ratio, polydispersity, shell_polydispersity)
    return size.forward().to(core_radius.dtype)


def _core_shell(core: Tensor, shell: Tensor, ratio: Tensor, p: Tensor, shell_p: Tensor | None) -> CoreShell:
    thickness = schulz.relative_variance(torch.zeros_like(p) if shell_p is None else shell_p)
    return CoreShell(core.double(), shell.double(), ratio.double(), schulz.relative_variance(p), thickness)


def ellipsoid(q: Tensor, polar_radius: Tensor, equatorial_radius: Tensor, polydispersity: Tensor) -> Tensor:
    """Ellipsoids of revolution, all orientations; both radii share one Schulz factor.

    At angle acos(u) to q the size average is that of a sphere of radius
    sqrt(equatorial^2 (1 - u^2) + polar^2 u^2) (Guinier, 1939).
    """
    q64, variance = _batch(q, polar_radius), schulz.relative_variance(polydispersity)
    equatorial2, difference = _squares(polar_radius, equatorial_radius)
    points, curve = _flatten(q64)
    width = points * difference.abs().sqrt()[curve]

    def kernel(index: Tensor, u: Tensor) -> Tensor:
        c = curve[index]
        radius = (equatorial2[c][:, None] + difference[c][:, None] * u.square()).sqrt()
        return schulz.sphere_average(points[index][:, None] * radius, variance[c][:, None])

    across = points.square() * equatorial2[curve] + 0.25 / variance[curve].square()
    pole = across.sqrt() / width.clamp(min=1e-6)
    prolate = difference[curve] > 0
    decay = torch.where(prolate, torch.asinh(pole), torch.acosh(pole.clamp(min=1)))
    shape = (points * equatorial2[curve].sqrt()) / width.clamp(min=1e-6)
    smooth = torch.where(prolate, torch.asinh(shape), torch.acosh(shape.clamp(min=1)))
    smallest = torch.minimum(equatorial2, equatorial2 + difference).sqrt()[curve] * points
    damping = smallest * variance[curve].sqrt()
    average = orientation_average(kernel, width, decay, damping, smooth)
    return average.view_as(q64).to(polar_radius.dtype)


def cylinder(q: Tensor, radius: Tensor, length: Tensor, polydispersity: Tensor) -> Tensor:
    """Circular cylinders, all orientations; the radius is distributed, the length is not."""
    q64, variance = _batch(q, radius), schulz.relative_variance(polydispersity)
    kappa = q64 * radius.double()[:, None]
    disc = DiscTable(variance, float(kappa.detach().max()))
    kappa, curve = _flatten(kappa)
    half = (q64 * length.double()[:, None] / 2).reshape(-1)

    def kernel(index: Tensor, u: Tensor) -> Tensor:
        across = disc(curve[index], kappa[index][:, None] * (1 - u.square()).sqrt())
        return torch.sinc(half[index][:, None] * (u / torch.pi)).square() * across

    decay = torch.asinh(0.5 / (variance[curve] * kappa))
    return orientation_average(kernel, kappa + half, decay).view_as(q64).to(radius.dtype)


def smear(
    model: Callable[[Tensor], Tensor], q: Tensor, dq: Tensor, nodes: int = 15, cut: float = 3.0
) -> Tensor:
    """Intensity seen through a Gaussian resolution, by Gauss-Legendre quadrature over +-`cut` sigma.

    Args:
        model: callable of q (B, N) returning (B, N).
        q: (Q,) or (B, Q) 1/angstrom.
        dq: standard deviation of the resolution, the shape of q, 1/angstrom; 0 leaves a point as it is.
        nodes: quadrature nodes per point.
        cut: where the Gaussian is cut off, in standard deviations.

    Returns:
        (B, Q); points that reach across q = 0 are reflected.
    """
    x, w = np.polynomial.legendre.leggauss(nodes)
    offset = torch.as_tensor(cut * x, dtype=q.dtype, device=q.device)
    weight = torch.as_tensor(w * np.exp(-0.5 * (cut * x) ** 2), dtype=q.dtype, device=q.device)
    q, dq = torch.atleast_2d(q), torch.atleast_2d(dq)
    spread = (q[..., None] + dq[..., None] * offset).abs()
    values = model(spread.flatten(1)).view(-1, *spread.shape[1:])
    return values @ (weight / weight.sum()).to(values.dtype)


def _batch(q: Tensor, parameter: Tensor) -> Tensor:
    """Q as float64 (B, Q), kept off zero so that gradients stay finite."""
    return torch.atleast_2d(q).double().clamp(min=1e-12).expand(parameter.shape[0], -1)


def _flatten(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B * Q,) values and the curve each belongs to."""
    curve = torch.arange(x.shape[0], device=x.device).repeat_interleave(x.shape[1])
    return x.reshape(-1), curve


def _squares(polar: Tensor, equatorial: Tensor) -> tuple[Tensor, Tensor]:
    equatorial2 = equatorial.double().square()
    return equatorial2, polar.double().square() - equatorial2


def absolute_scale(
    volume_fraction: Tensor, contrast: Tensor, mean_volume: Tensor, mean_squared_volume: Tensor
) -> Tensor:
    """I(0) in 1/cm, sasmodels' convention: 1e-4 volume_fraction contrast^2 <V^2> / <V>.

    Args:
        volume_fraction: (B,).
        contrast: (B,) scattering-length density over solvent, 1e-6/angstrom^2.
        mean_volume: (B,) <V>, angstrom^3; see the `*_volumes` of `radial_density`.
        mean_squared_volume: (B,) <V^2>, angstrom^6.

    Returns:
        (B,) factor that turns P(q) into I(q).
    """
    return 1e-4 * volume_fraction * contrast.square() * mean_squared_volume / mean_volume


def core_shell_volumes(
    core_radius: Tensor,
    shell_thickness: Tensor,
    contrast_ratio: Tensor,
    polydispersity: Tensor,
    shell_polydispersity: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """<V> of the whole particle and <(contrast V)^2> over the core's contrast squared, (B,) each.

    With `absolute_scale` and the core's contrast they put `core_shell_sphere` on an absolute scale.
    """
    size = _core_shell(core_radius, shell_thickness, contrast_ratio, polydispersity, shell_polydispersity)
    outer = core_radius.double() + shell_thickness.double()
    solid = 4 / 3 * torch.pi * outer**3
    squared = solid.square() * size.forward()
    return (solid * size.mean_volume()).to(core_radius.dtype), squared.to(core_radius.dtype)
