"""Specular X-ray reflectivity of layer stacks: Parratt's recursion with Nevot-Croce roughness.

Materials are given by their electron density and by an absorption in the same unit, e/angstrom^3,

    n = 1 - delta + i beta,  delta = r_e lambda^2 / (2 pi) density,  beta = r_e lambda^2 / (2 pi) absorption,

so that a curve over q does not depend on the wavelength. `density` is what scatters: the electrons in a
volume and their dispersion correction f'. A scattering-length density is r_e times it;
`from_refractive_index` and `refractive_index` convert from and to optical constants. With k the vertical
wave vector in a layer,

    k_j^2 = (q / 2)^2 - 4 pi r_e [density_j - density_0 - i absorption_j],   k_0 = q / 2:

what the medium of the beam absorbs on the way is the same for all q and not counted.
L. G. Parratt, Phys. Rev. 95, 359 (1954); L. Nevot and P. Croce, Rev. Phys. Appl. 15, 761 (1980).

Dimension letters: N stacks, L layers, Q points. Layers are counted from where the beam comes from; a layer of
no thickness whose density is that of a neighbour changes nothing, so that stacks of unequal length share a
batch.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core.constants import ELECTRON_RADIUS_ANGSTROM
from nfphasing_bluesky.physics.phasors import complex_exp

"""Classical electron radius (CODATA 2022)."""
STEP_UNIT = 4 * math.pi * ELECTRON_RADIUS_ANGSTROM
"""Squared wave vector that a density of 1 e/angstrom^3 takes off, 1/angstrom^2."""


@dataclass(frozen=True)
class Stack:
    """N stacks of L layers between the medium of the beam and a substrate.

    Args:
        density: (N, L + 2) e/angstrom^3; of the medium first, of the substrate last.
        absorption: (N, L + 2) e/angstrom^3, at least 0.
        thickness: (N, L) angstrom.
        roughness: (N, L + 1) root mean square of each interface, angstrom; that of the surface first.
    """

    density: Tensor
    absorption: Tensor
    thickness: Tensor
    roughness: Tensor

    def __post_init__(self) -> None:
        n, media = self.density.shape
        shapes = [tuple(getattr(self, f.name).shape) for f in fields(self)]
        if shapes != [(n, media), (n, media), (n, media - 2), (n, media - 1)]:
            raise ValueError(
                f"density, absorption, thickness and roughness have shapes {shapes}, expected (N, L + 2) "
                "twice, (N, L) and (N, L + 1)"
            )

    def __len__(self) -> int:
        return self.density.shape[0]

    @property
    def layers(self) -> int:
        """L."""
        return self.thickness.shape[1]


class Fields(NamedTuple):
    """Amplitudes at the upper edge of each layer, the medium's at the surface, for a beam of amplitude 1.

    Attributes:
        transmitted: (N, L + 2, Q) complex, of the wave that goes down.
        reflected: (N, L + 2, Q) complex, of the wave that goes up; 0 in the substrate.
        wave_vector: (N, L + 2, Q) complex k, 1/angstrom.
    """

    transmitted: Tensor
    reflected: Tensor
    wave_vector: Tensor


def from_refractive_index(delta: Tensor, beta: Tensor, wavelength_angstrom: float) -> tuple[Tensor, Tensor]:
    """Density and absorption, e/angstrom^3, of n = 1 - delta + i beta."""
    unit = 2 * math.pi / (ELECTRON_RADIUS_ANGSTROM * wavelength_angstrom**2)
    return delta * unit, beta * unit


def refractive_index(
    density: Tensor, absorption: Tensor, wavelength_angstrom: float
) -> tuple[Tensor, Tensor]:
    """Delta and beta of n = 1 - delta + i beta, from density and absorption, e/angstrom^3."""
    unit = ELECTRON_RADIUS_ANGSTROM * wavelength_angstrom**2 / (2 * math.pi)
    return density * unit, absorption * unit


def critical_q(density: Tensor) -> Tensor:
    """Where total reflection from a density over that of the beam's medium ends, 1/angstrom; 0 for none."""
    return 4 * (math.pi * ELECTRON_RADIUS_ANGSTROM * density.clamp_min(0.0)).sqrt()


def wave_vectors(stack: Stack, q_inv_angstrom: Tensor) -> Tensor:
    """(N, L + 2, Q) complex vertical wave vectors, imaginary part at least 0, 1/angstrom."""
    over = STEP_UNIT * (stack.density - stack.density[:, :1])[:, :, None]
    real = (0.5 * q_inv_angstrom).square()[:, None] - over
    return _upper_root(real, STEP_UNIT * lost(stack)[:, :, None].expand_as(real))


def _upper_root(real: Tensor, imaginary: Tensor) -> Tensor:
    """Square root of a complex number whose imaginary part is at least 0. Torch's own is ten times slower."""
    far = (0.5 * (torch.hypot(real, imaginary) + real.abs())).sqrt()
    near = 0.5 * imaginary / far.clamp_min(torch.finfo(far.dtype).tiny)
    outside = real >= 0
    return torch.complex(torch.where(outside, far, near), torch.where(outside, near, far))


def lost(stack: Stack) -> Tensor:
    """(N, L + 2) absorption, none in the medium of the beam."""
    return torch.nn.functional.pad(stack.absorption[:, 1:], (1, 0))


def reflection_coefficients(stack: Stack, wave_vector: Tensor) -> Tensor:
    """(N, L + 1, Q) complex Fresnel coefficients of the rough interfaces, seen from above.

    The difference k_j - k_{j+1} is taken from the densities: far beyond the critical angle it is too small
    to be left of two large numbers.
    """
    step = torch.complex(stack.density.diff(dim=1), -lost(stack).diff(dim=1))[:, :, None] * STEP_UNIT
    above, below = wave_vector[:, :-1], wave_vector[:, 1:]
    total = above + below
    tiny = torch.finfo(stack.density.dtype).tiny
    sharp = step / (total.square() + tiny)
    return sharp * complex_exp(-2 * above * below * stack.roughness.square()[:, :, None])


def reflection_amplitude(stack: Stack, q_inv_angstrom: Tensor) -> Tensor:
    """(N, Q) complex amplitude that the whole stack reflects, at q (N, Q), 1/angstrom."""
    k = wave_vectors(stack, q_inv_angstrom)
    r = reflection_coefficients(stack, k)
    below = r[:, -1]
    for j in range(stack.layers - 1, -1, -1):
        below = below * complex_exp(2j * k[:, j + 1] * stack.thickness[:, j, None])
        below = (r[:, j] + below) / (1 + r[:, j] * below)
    return below


def reflectivity(stack: Stack, q_inv_angstrom: Tensor) -> Tensor:
    """(N, Q) share of the intensity that is reflected at q (N, Q), 1/angstrom; differentiable."""
    amplitude = reflection_amplitude(stack, q_inv_angstrom)
    return amplitude.real.square() + amplitude.imag.square()


def wave_fields(stack: Stack, q_inv_angstrom: Tensor) -> Fields:
    """Amplitudes of both waves in every layer, as distorted-wave calculations need them.

    The transmission of a rough interface is that of Nevot and Croce, which gains exp((k - k')^2 s^2 / 2).
    """
    k = wave_vectors(stack, q_inv_angstrom)
    r = reflection_coefficients(stack, k)
    sharp_gain = (k[:, :-1] - k[:, 1:]).square() * stack.roughness.square()[:, :, None]
    tiny = torch.finfo(stack.density.dtype).tiny
    t = 2 * k[:, :-1] / (k[:, :-1] + k[:, 1:] + tiny) * complex_exp(0.5 * sharp_gain)
    phase = complex_exp(1j * k[:, 1:-1] * stack.thickness[:, :, None])
    # ratio of reflected to transmitted wave at the upper edge of every layer, from the substrate up
    ratios = [torch.zeros_like(k[:, 0])]
    for j in range(stack.layers, -1, -1):
        at_interface = (r[:, j] + ratios[0]) / (1 + r[:, j] * ratios[0])
        ratios.insert(0, at_interface if j == 0 else at_interface * phase[:, j - 1].square())
    transmitted = [torch.ones_like(k[:, 0])]
    for j in range(stack.layers + 1):
        arriving = transmitted[-1] if j == 0 else transmitted[-1] * phase[:, j - 1]
        transmitted.append(arriving * t[:, j] / (1 + r[:, j] * ratios[j + 1]))
    down = torch.stack(transmitted, 1)
    return Fields(down, down * torch.stack(ratios, 1), k)
