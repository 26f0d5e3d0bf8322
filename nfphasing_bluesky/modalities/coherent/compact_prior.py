"""Prior of compact objects with a known density: a bounded function of a Gaussian field.

u = Phi(m + t (L z)), z independent standard normals, Phi the normal distribution function. L z is a smooth
field of unit variance whose correlation is Gaussian; m falls from the middle to the edge of the grid, so that
there is nothing outside. With no correlation, m = 0 and t = 1, u is uniform in 0 to 1, each pixel on its own.
The modality's theta is Phi(z), uniform in the unit box; inside the flow's box that is z again.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 1e-7
"""Theta is that far from 0 and 1, so that z is finite in float32 too."""


@dataclass(frozen=True, eq=False)
class CompactPrior:
    """Maps between z and u, both (..., D) over the pixels of a grid, row after row.

    Args:
        shape: (h, w) of the grid.
        mean: (D,) m.
        root: (D, D) t L, symmetric and the same after inversion of the grid; None for the unit matrix.
    """

    shape: tuple[int, int]
    mean: Tensor
    root: Tensor | None

    def density(self, z: Tensor) -> Tensor:
        """(..., D) u in 0..1 of (..., D) z."""
        return 0.5 * torch.erfc(-self.field(z) / math.sqrt(2))

    def field(self, z: Tensor) -> Tensor:
        """(..., D) Gaussian field m + t L z."""
        moved = z if self.root is None else z @ self.root.to(z)
        return self.mean.to(z) + moved

    def slopes(self, z: Tensor, gradient: Tensor) -> Tensor:
        """(..., P, D) derivatives by z, from those by u (..., P, D)."""
        steep = torch.exp(-0.5 * self.field(z).square()) / math.sqrt(2 * math.pi)
        scaled = gradient * steep[..., None, :]
        return scaled if self.root is None else scaled @ self.root.to(z)

    def latent(self, theta: Tensor) -> Tensor:
        """(..., D) z of (..., D) theta; values at or beyond the edges count as just inside."""
        return torch.special.ndtri(theta.clamp(LEAST, 1 - LEAST))

    def nearest(self, u: Tensor) -> Tensor:
        """(..., D) z whose density is near u (..., D), which need not be possible."""
        field = torch.special.ndtri(u.clamp(1e-3, 1 - 1e-3)) - self.mean.to(u)
        if self.root is None:
            return field
        # the most probable z for a field that is known to a tenth
        root = self.root.to(u)
        gram = root @ root + 0.01 * torch.eye(len(root), dtype=u.dtype, device=u.device)
        return torch.linalg.solve(gram, (field @ root).mT).mT


def compact_prior(
    shape: tuple[int, int], correlation_px: float, contrast: float, reach: float
) -> CompactPrior:
    """Make the prior of a grid.

    Args:
        shape: (h, w).
        correlation_px: standard deviation of the correlation, pixels; 0 for independent uniform pixels.
        contrast: t, standard deviation of the field.
        reach: radius at which m is 0, over half the grid's side; m = 2 t (1 - (r / reach)^4).
    """
    count = shape[0] * shape[1]
    if correlation_px == 0:
        return CompactPrior(shape, torch.zeros(count, dtype=torch.float64), None)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape))
    half = torch.tensor([max(n, 2) / 2 for n in shape], dtype=torch.float64)
    radius = (places / half).norm(dim=1)
    mean = 2 * contrast * (1 - (radius / reach) ** 4).clamp_min(-3.0)
    square = (places[:, None] - places).square().sum(2)
    correlation = torch.exp(-0.5 * square / correlation_px**2) + 1e-6 * torch.eye(count, dtype=torch.float64)
    values, axes = torch.linalg.eigh(correlation)
    root = contrast * (axes * values.clamp_min(0).sqrt()) @ axes.mT
    return CompactPrior(shape, mean, root)
