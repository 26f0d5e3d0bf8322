"""Density against depth of layer stacks, and the stack of thin slices that a profile is.

An interface of roughness s is an error function of standard deviation s in the lateral average. Where the
roughness is comparable to a thickness, interfaces overlap: then Nevot-Croce factors no longer describe the
profile, and `sliced` gives the stack whose sharp slices do.

Depth z is 0 at the surface of the first layer and grows towards the substrate.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.physics.reflectivity import Stack


def interface_depths(stack: Stack) -> Tensor:
    """(N, L + 1) depth of each interface, angstrom; 0 for the surface."""
    return torch.nn.functional.pad(stack.thickness.cumsum(1), (1, 0))


def passed_interfaces(stack: Stack, z_angstrom: Tensor) -> Tensor:
    """(N, L + 1, Z) share of the area at depth z that lies beyond each interface, 0 to 1."""
    distance = z_angstrom - interface_depths(stack)[:, :, None]
    width = stack.roughness.clamp_min(1e-6)[:, :, None]
    return torch.special.ndtr(distance / width)


def density_profile(stack: Stack, z_angstrom: Tensor) -> Tensor:
    """(N, Z) electron density at depth z (Z,) or (N, 1, Z), e/angstrom^3: a sum of error functions."""
    return _profile(stack.density, passed_interfaces(stack, z_angstrom))


def absorption_profile(stack: Stack, z_angstrom: Tensor) -> Tensor:
    """(N, Z) absorption at depth z, e/angstrom^3."""
    return _profile(stack.absorption, passed_interfaces(stack, z_angstrom))


def bounded_profile(stack: Stack, z_angstrom: Tensor) -> Tensor:
    """(N, Z) density at depth z that never leaves the range of the materials, e/angstrom^3.

    Where interfaces of different roughness overlap, the plain sum gives some material a negative share. Here
    an interface is passed only where those above it are; without overlap it is the plain sum.
    """
    return _profile(stack.density, passed_interfaces(stack, z_angstrom).cummin(1).values)


def _profile(values: Tensor, passed: Tensor) -> Tensor:
    return values[:, :1] + (values.diff(dim=1)[:, :, None] * passed).sum(1)


def sliced(stack: Stack, slices: int, reach: float = 5.0) -> Stack:
    """Sharp slices of equal thickness with the densities of the profile in their middles.

    Args:
        stack: N stacks.
        slices: of each, from `reach` roughnesses above the surface to as many below the substrate.
        reach: in units of the roughness.
    """
    depths, width = interface_depths(stack), reach * stack.roughness
    top, bottom = (depths - width).amin(1), (depths + width).amax(1)
    step = ((bottom - top) / slices)[:, None]
    middle = top[:, None] + step * (torch.arange(slices, dtype=step.dtype, device=step.device) + 0.5)
    passed = passed_interfaces(stack, middle[:, None])
    media = [
        torch.cat([values[:, :1], _profile(values, passed), values[:, -1:]], 1)
        for values in (stack.density, stack.absorption)
    ]
    sharp = torch.zeros(len(stack), slices + 1, dtype=step.dtype, device=step.device)
    return Stack(media[0], media[1], step.expand(-1, slices).contiguous(), sharp)
