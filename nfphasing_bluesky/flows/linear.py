"""Transforms that mix coordinates and do not depend on the context."""

import torch
from torch import Tensor, nn

from nfphasing_bluesky.flows.transforms import Transform, full_precision

MAX_LOG_DIAGONAL = 3.0


class LULinear(Transform):
    """y = L S U x with L and U unit lower and upper triangular and S diagonal and positive.

    Starts as the identity. S stays within e^-3 and e^3, so that the matrix stays invertible. Only the
    strict triangles of `lower` and `upper` are used.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(dimension, dimension))
        self.upper = nn.Parameter(torch.zeros(dimension, dimension))
        self.raw_log_diagonal = nn.Parameter(torch.zeros(dimension))

    @property
    def log_diagonal(self) -> Tensor:
        """(D,) logarithm of S."""
        return MAX_LOG_DIAGONAL * torch.tanh(self.raw_log_diagonal / MAX_LOG_DIAGONAL)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply."""
        with full_precision(x):
            log_diagonal = self.log_diagonal
            x = (x + x @ self.upper.triu(1).mT) * log_diagonal.exp()
            x = x + x @ self.lower.tril(-1).mT
            return x, log_diagonal.sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Solve two triangular systems; the solver reads the strict triangles only."""
        solve = torch.linalg.solve_triangular
        with full_precision(y):
            log_diagonal = self.log_diagonal
            columns = y.reshape(-1, y.shape[-1]).mT
            columns = solve(self.lower, columns, upper=False, unitriangular=True)
            columns = columns * torch.exp(-log_diagonal).unsqueeze(-1)
            columns = solve(self.upper, columns, upper=True, unitriangular=True)
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
