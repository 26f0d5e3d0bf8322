"""Where particles sit on the surface, and what that does to their scattering.

A paracrystal has no long-range order: the distance of neighbours scatters, and errors add up. With
f(q) = exp(i q D - q^2 w^2 / 2 - D / Lambda) for distances D of standard deviation w, damped over Lambda,

    S(q) = Re[(1 + f) / (1 - f)]                                          (endless)
    S(q) = 1 + 2 Re[f / (1 - f) - f (1 - f^n) / (n (1 - f)^2)]            (domains of n particles).

Along one axis that is exact; isotropic over the plane it is the usual radial approximation.
R. Hosemann and S. N. Bagchi, Direct Analysis of Diffraction by Matter (1962); R. Lazzari, J. Appl. Cryst. 35,
406 (2002).

Dimension letters: N samples, H rows, W columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.physics.phasors import phasor


@dataclass(frozen=True)
class Paracrystal:
    """Order of N samples.

    Args:
        distance: (N,) of neighbours, angstrom.
        disorder: (N,) standard deviation of the distance, angstrom.
        damping: (N,) length over which order is lost beside that, angstrom; infinite for not at all.
        domain: (N,) size of domains, angstrom, or None for endless ones. A domain holds a whole number of
            particles: nothing flows back through it.
        chain_rad: (N,) azimuth of the axis of a one-dimensional paracrystal, 0 along the beam; None for a
            radial one.
        coupling: (N,) by how much larger particles keep more distance, as a multiple of their excess radius;
            None for not at all. Radial ones alone have it.
    """

    distance: Tensor
    disorder: Tensor
    damping: Tensor
    domain: Tensor | None = None
    chain_rad: Tensor | None = None
    coupling: Tensor | None = None

    def __post_init__(self) -> None:
        if self.coupling is not None and self.chain_rad is not None:
            raise ValueError("coupling of size and distance is for radial paracrystals, this one is a chain")

    def q_along(self, q_x: Tensor, q_y: Tensor) -> Tensor:
        """(N, H, W) q that order sees, 1/angstrom, from the components (N, H, W) of q in the plane."""
        if self.chain_rad is None:
            return torch.hypot(q_x, q_y)
        chain = self.chain_rad[:, None, None].to(q_x)
        return q_x * chain.cos() + q_y * chain.sin()

    def step(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Modulus and phase (N, H, W) of f(q)."""
        distance, disorder, damping = (
            v[:, None, None].to(q) for v in (self.distance, self.disorder, self.damping)
        )
        return torch.exp(-0.5 * (q * disorder).square() - distance / damping), q * distance


def structure_factor(order: Paracrystal | None, q: Tensor) -> Tensor:
    """(N, H, W) S at q = `order.q_along`; ones for no order at all, None."""
    if order is None:
        return torch.ones_like(q)
    modulus, phase = order.step(q)
    square = modulus.square()
    cosine = phase.cos()
    # |1 - f|^2, kept off zero where nothing damps at q = 0
    denominator = (1 - modulus).square() + 2 * modulus * (1 - cosine)
    denominator = denominator.clamp_min(torch.finfo(q.dtype).eps ** 2)
    endless = (1 - square) / denominator
    if order.domain is None:
        return endless
    return endless - _ends(order.distance, order.domain, modulus.double(), phase.double()).to(q)


def _ends(distance: Tensor, domain: Tensor, modulus: Tensor, phase: Tensor) -> Tensor:
    """(N, H, W) what is missing at the ends of n particles: 2 Re[f (1 - f^n) / (n (1 - f)^2)]."""
    number = (domain / distance).detach().floor().clamp_min(1.0)[:, None, None].double()
    f = phasor(modulus, phase)
    last = phasor(modulus**number, phase * number)
    return 2 * (f * (1 - last) / (number * (1 - f).square())).real
