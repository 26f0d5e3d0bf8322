"""What a reflectometer makes of a reflectivity: angles, footprint, resolution, attenuators, background.

Dimension letters: N curves, Q points, M quadrature nodes, A attenuator steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity


class BeamShape(StrEnum):
    """Vertical profile of the beam."""

    HAT = "hat"
    SOFT_HAT = "soft hat"
    GAUSSIAN = "gaussian"


EDGE = 0.05
"""Width of the logistic edges of a soft hat, over half of its height."""


@dataclass(frozen=True)
class Reflectometer:
    """How N curves were measured. Everything is (N,) unless it says otherwise.

    Args:
        scale: intensity where everything is reflected (1 for a curve that was normalised well).
        background: added to each point.
        q_offset: of the true q over the nominal one, 1/angstrom: what an angle offset comes to
            (`offset_of_angle`).
        spill_q: nominal q below which the sample is shorter than the beam's footprint (`footprint_q`),
            1/angstrom; 0 for a sample that always catches the whole beam.
        shape: of the beam.
    """

    scale: Tensor
    background: Tensor
    q_offset: Tensor
    spill_q: Tensor
    shape: BeamShape = BeamShape.HAT


def q_of_angle(incidence_rad: Tensor, wavelength_angstrom: float) -> Tensor:
    """Momentum transfer 4 pi sin(theta) / lambda, 1/angstrom."""
    return 4 * math.pi / wavelength_angstrom * torch.sin(incidence_rad)


def offset_of_angle(q_inv_angstrom: Tensor, offset_rad: Tensor, wavelength_angstrom: float) -> Tensor:
    """(N, Q) true minus nominal q for incidence angles that are all off by (N,) `offset_rad`."""
    nominal = torch.asin(q_inv_angstrom * wavelength_angstrom / (4 * math.pi))
    return q_of_angle(nominal + offset_rad[:, None], wavelength_angstrom) - q_inv_angstrom


def footprint_q(beam_width: float, sample_length: float, wavelength_angstrom: float) -> float:
    """Momentum transfer at which the footprint of the beam is as long as the sample, 1/angstrom.

    Args:
        beam_width: height of a hat, standard deviation of a Gaussian; in the unit of the length.
        sample_length: along the beam.
        wavelength_angstrom: of the beam.
    """
    return 4 * math.pi / wavelength_angstrom * beam_width / sample_length


def illuminated_share(q_inv_angstrom: Tensor, spill_q: Tensor, shape: BeamShape = BeamShape.HAT) -> Tensor:
    """(N, Q) share of the beam that falls on the sample, for (N,) `spill_q`."""
    reach = q_inv_angstrom.clamp_min(0.0) / spill_q.clamp_min(1e-12)[:, None]
    if shape is BeamShape.HAT:
        return reach.clamp_max(1.0)
    if shape is BeamShape.SOFT_HAT:
        return 1 - EDGE * functional.softplus((1 - reach) / EDGE)
    # half of the sample on either side of the beam's middle
    return torch.erf(reach / (2 * math.sqrt(2.0)))


def smeared(
    curve: Callable[[Tensor], Tensor], q: Tensor, dq: Tensor, nodes: int = 17, reach: float | None = None
) -> Tensor:
    """(N, Q) curve averaged over a Gaussian resolution by quadrature.

    Gauss-Hermite over the whole Gaussian, or Gauss-Legendre over the part of it within `reach` standard
    deviations, normalised. Take more nodes where dq times the thickness of the stack exceeds 2. What other
    codes cut off (refnx 3.5, refl1d 3.7) is seen at the bottom of deep fringes, up to 1 %.

    Args:
        curve: (N, Q M) q to values; never asked below q = 0, at which it is mirrored.
        q: (N, Q) 1/angstrom.
        dq: (N, Q) standard deviation, 1/angstrom.
        nodes: M.
        reach: in standard deviations; None for all of the Gaussian.
    """
    if reach is None:
        place, weight = np.polynomial.hermite_e.hermegauss(nodes)
    else:
        place, weight = np.polynomial.legendre.leggauss(nodes)
        place = reach * place
        weight = weight * np.exp(-0.5 * place**2)
    at = torch.as_tensor(place, dtype=q.dtype, device=q.device)
    share = torch.as_tensor(weight / weight.sum(), dtype=q.dtype, device=q.device)
    where = (q[:, :, None] + dq[:, :, None] * at).abs()
    return (curve(where.flatten(1)).unflatten(1, (-1, nodes)) * share).sum(-1)


def attenuated(q: Tensor, edges: Tensor, log_factors: Tensor) -> Tensor:
    """(N, Q) factor left on a curve whose attenuators were corrected with slightly wrong values.

    Args:
        q: (N, Q) 1/angstrom.
        edges: (N, A) q at which an attenuator was changed, increasing, 1/angstrom.
        log_factors: (N, A) logarithm of the step that stays there.
    """
    beyond = (q[:, :, None] >= edges[:, None]).to(log_factors.dtype)
    return (beyond * log_factors[:, None]).sum(-1).exp()


def measured_reflectivity(
    stack: Stack, instrument: Reflectometer, q: Tensor, dq: Tensor | None = None, nodes: int = 17
) -> Tensor:
    """(N, Q) expected intensity at nominal q (N, Q), 1/angstrom.

    Args:
        stack: N stacks.
        instrument: of each.
        q: (N, Q).
        dq: (N, Q) standard deviation of the resolution, 1/angstrom; None for none.
        nodes: of the quadrature.
    """

    def seen(nominal: Tensor) -> Tensor:
        true = (nominal + instrument.q_offset[:, None]).clamp_min(0.0)
        return reflectivity(stack, true) * illuminated_share(nominal, instrument.spill_q, instrument.shape)

    curve = seen(q) if dq is None else smeared(seen, q, dq, nodes)
    return instrument.scale[:, None] * curve + instrument.background[:, None]
