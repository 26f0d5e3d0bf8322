"""Standardisers: location, scale and correlation predicted from the context, next to the data.

Posteriors are up to a thousand times narrower than the prior; behind a standardiser the couplings work
on coordinates of order one.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.flows.conditioner import Conditioner
from nfphasing_bluesky.flows.transforms import (
    Transform,
    draws_first,
    draws_last,
    full_precision,
    soft_clamp,
)

MIN_LOG_SCALE = -12.0
MAX_LOG_SCALE = 6.0
MAX_COUPLING = 30.0


class ConditionalAffine(Transform):
    """z = (x - mu(context)) / s(context), with log s softly clamped to (-12, 6)."""

    def __init__(self, dimension: int, context: int, hidden: int = 256, blocks: int = 2) -> None:
        super().__init__()
        self.dimension = dimension
        self.head = Conditioner(0, context, 2 * dimension, hidden, blocks)

    def location_and_log_scale(self, context: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both (B, D)."""
        location, raw = self.head(None, context).to(dtype).chunk(2, dim=-1)
        return location, soft_clamp(raw, MIN_LOG_SCALE, MAX_LOG_SCALE)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise."""
        location, log_scale = self.location_and_log_scale(context, x.dtype)
        return (x - location) * torch.exp(-log_scale), -log_scale.sum(-1).expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Undo it."""
        location, log_scale = self.location_and_log_scale(context, y.dtype)
        return location + y * torch.exp(log_scale), log_scale.sum(-1).expand(y.shape[:-1])


class ConditionalGaussian(Transform):
    """z = M(context) (x - mu(context)) / s(context), with M unit lower triangular.

    M / s is the inverse Cholesky factor of a covariance matrix. Predicting the inverse keeps the
    likelihood a polynomial in M; each off-diagonal element is softly clamped to (-30, 30), which
    reaches correlations of 0.999.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, dimension: int, context: int, hidden: int = 256, blocks: int = 2) -> None:
        super().__init__()
        self.dimension = dimension
        rows, columns = torch.tril_indices(dimension, dimension, offset=-1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.head = Conditioner(0, context, 2 * dimension + rows.numel(), hidden, blocks)

    def factors(self, context: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Location (B, D), log scale (B, D) and M (B, D, D)."""
        d = self.dimension
        location, raw, off = self.head(None, context).to(dtype).split([d, d, self.rows.numel()], dim=-1)
        off = soft_clamp(off, -MAX_COUPLING, MAX_COUPLING)
        unit = torch.eye(d, dtype=dtype, device=off.device).expand(*off.shape[:-1], d, d)
        matrix = unit.index_put((*_leading(off), self.rows, self.columns), off)
        return location, soft_clamp(raw, MIN_LOG_SCALE, MAX_LOG_SCALE), matrix

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise and decorrelate."""
        location, log_scale, matrix = self.factors(context, x.dtype)
        with full_precision(x):
            columns = draws_last((x - location) * torch.exp(-log_scale))
            return draws_first(matrix @ columns, x.shape), -log_scale.sum(-1).expand(x.shape[:-1])

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Solve one triangular system per context for all draws at once."""
        location, log_scale, matrix = self.factors(context, y.dtype)
        with full_precision(y):
            solved = torch.linalg.solve_triangular(matrix, draws_last(y), upper=False, unitriangular=True)
            x = location + draws_first(solved, y.shape) * torch.exp(log_scale)
            return x, log_scale.sum(-1).expand(y.shape[:-1])


def _leading(off: Tensor) -> tuple[Tensor, ...]:
    """Index of the batch dimension that broadcasts against the (row, column) indices."""
    return (torch.arange(off.shape[0], device=off.device).unsqueeze(-1),)
