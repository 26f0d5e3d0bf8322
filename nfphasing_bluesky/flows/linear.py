"""Transforms that mix coordinates and do not depend on the context."""

import torch
from torch import Tensor, nn

from nfphasing_bluesky.flows.transforms import Transform, full_precision, soft_clamp

MAX_LOG_DIAGONAL = 3.0


class LULinear(Transform):
    """y = L U x with L unit lower triangular and U upper triangular with a positive diagonal.

    Starts as the identity. The diagonal stays within e^-3 and e^3, so that the matrix stays invertible.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(dimension, dimension))
        self.upper = nn.Parameter(torch.zeros(dimension, dimension))
        self.log_diagonal = nn.Parameter(torch.zeros(dimension))

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """L (D, D), U (D, D) and the logarithm of U's diagonal (D,)."""
        log_diagonal = soft_clamp(self.log_diagonal, -MAX_LOG_DIAGONAL, MAX_LOG_DIAGONAL)
        identity = torch.eye(log_diagonal.numel(), dtype=log_diagonal.dtype, device=log_diagonal.device)
        return (
            self.lower.tril(-1) + identity,
            self.upper.triu(1) + torch.diag(log_diagonal.exp()),
            log_diagonal,
        )

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by L U."""
        with full_precision(x):
            lower, upper, log_diagonal = self.factors()
            return x @ (lower @ upper).mT, log_diagonal.sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Solve two triangular systems."""
        with full_precision(y):
            lower, upper, log_diagonal = self.factors()
            columns = y.reshape(-1, y.shape[-1]).mT
            columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
            columns = torch.linalg.solve_triangular(upper, columns, upper=True)
            return columns.mT.reshape(y.shape), -log_diagonal.sum().expand(y.shape[:-1])


class Permutation(Transform):
    """A fixed random permutation, stored with the weights."""

    order: Tensor
    back: Tensor

    def __init__(self, dimension: int, generator: torch.Generator) -> None:
        super().__init__()
        order = torch.randperm(dimension, generator=generator)
        self.register_buffer("order", order)
        self.register_buffer("back", torch.argsort(order))

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Permute."""
        return x.index_select(-1, self.order), x.new_zeros(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Permute back."""
        return y.index_select(-1, self.back), y.new_zeros(y.shape[:-1])
