"""Anchors: where the physics itself puts the posterior, so that a flow only learns what is left.

An anchor is a Gaussian, one per context, found without the network (a fit and its curvature). The flow sees
coordinates in which that Gaussian is the standard normal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.flows.transforms import draws_first, draws_last, full_precision


@dataclass(frozen=True)
class Anchor:
    """A Gaussian in the unbounded coordinates of a flow, for each of B contexts.

    Args:
        location: (B, D).
        factor: (B, D, D) lower triangular, positive diagonal; covariance = factor @ factor.T.
        features: (B, F) what a network should know of it.
    """

    location: Tensor
    factor: Tensor
    features: Tensor

    def at(self, index: Tensor) -> "Anchor":
        """Return those of some contexts."""
        return Anchor(self.location[index], self.factor[index], self.features[index])

    def log_volume(self) -> Tensor:
        """(B,) log determinant of the factor."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def standardise(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (..., B, D) in which the Gaussian is standard, and log|det| (..., B)."""
        with full_precision(y):
            shifted = draws_last(y - self.location.to(y))
            solved = torch.linalg.solve_triangular(self.factor.to(y), shifted, upper=False)
            return draws_first(solved, y.shape), -self.log_volume().to(y).expand(y.shape[:-1])

    def restore(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `standardise`."""
        with full_precision(z):
            moved = draws_first(self.factor.to(z) @ draws_last(z), z.shape)
            return self.location.to(z) + moved, self.log_volume().to(z).expand(z.shape[:-1])
