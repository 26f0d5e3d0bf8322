"""Complex numbers of a modulus and a phase, with gradients that stay finite."""

import torch
from torch import Tensor


def phasor(modulus: Tensor, phase: Tensor) -> Tensor:
    """Make modulus exp(i phase), complex, of real tensors of one shape.

    As `torch.polar`, whose gradient is infinite or NaN where a modulus has fallen below the
    smallest normal number.
    """
    return torch.complex(modulus * phase.cos(), modulus * phase.sin())


def complex_exp(z: Tensor) -> Tensor:
    """exp(z) of complex z. Torch's own is ten times slower."""
    return phasor(z.real.exp(), z.imag)
