"""The Gaussian next to the data of a level: location, scale and correlation of a pixel's coefficients."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.flows.gaussian import MAX_LOG_SCALE, MIN_LOG_SCALE
from nfphasing_bluesky.flows.image.networks import repeat_draws, start_at_zero
from nfphasing_bluesky.flows.transforms import full_precision, soft_clamp

MAX_COUPLING = 10.0


class PixelGaussian(nn.Module):
    """z = M (x - mu - g r) / s at every pixel, M unit lower triangular among its n coefficients.

    r is a reference, an estimate of x that is made elsewhere, and g, from 0 to 1, how far to follow it.

    Predicted from a hidden map (N or B, width, h, w), by a layer that stays in float32 under autocast: mu has
    to be known to a part of s, and s can be a thousandth of mu.

    Args:
        coefficients: n.
        width: channels of the hidden map.
        correlated: predict M; it is the identity otherwise.
        referred: there is an r, and a g is predicted.
    """

    def __init__(
        self, coefficients: int, width: int, correlated: bool = True, referred: bool = False
    ) -> None:
        super().__init__()
        self.coefficients = n = coefficients
        self.off_diagonal = n * (n - 1) // 2 if correlated else 0
        self.followed = n if referred else 0
        self.head = nn.Conv2d(width, 2 * n + self.off_diagonal + self.followed, 1)
        start_at_zero(self.head)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start from the mean and standard deviation of each coefficient of x (..., n, h, w)."""
        values = x.movedim(-3, 0).flatten(1)
        log_scale = values.std(1).log().clamp(0.9 * MIN_LOG_SCALE, 0.9 * MAX_LOG_SCALE)
        limit = torch.where(log_scale > 0, MAX_LOG_SCALE, MIN_LOG_SCALE)
        start = torch.cat((values.mean(1), limit * torch.atanh(log_scale / limit)))
        bias = self.head.get_parameter("bias")
        bias[: start.numel()] = start

    def _predict(self, hidden: Tensor, x: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Location and log scale (N, n, h, w), strict lower triangle of M (N, n (n - 1) / 2, h, w)."""
        n = self.coefficients
        with full_precision(x):
            raw = self.head(functional.silu(hidden).to(self.head.weight.dtype)).to(x.dtype)
        parts = [n, n, self.off_diagonal, self.followed]
        location, log_scale, off, gate = repeat_draws(raw, x).split(parts, dim=1)
        if self.followed and reference is not None:
            location = location + torch.sigmoid(gate) * repeat_draws(reference, x)
        off = soft_clamp(off, -MAX_COUPLING, MAX_COUPLING)
        return location, soft_clamp(log_scale, MIN_LOG_SCALE, MAX_LOG_SCALE), off

    def forward(self, x: Tensor, hidden: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standardise (N, n, h, w), given r (B, n, h, w): z and log|det| (N,)."""
        location, log_scale, off = self._predict(hidden, x, reference)
        z = (x - location) * torch.exp(-log_scale)
        if self.off_diagonal:
            rows = z.unbind(1)
            z = torch.stack([rows[i] + _row(off, i, rows[:i]) for i in range(len(rows))], dim=1)
        return z, -log_scale.sum(dim=(1, 2, 3))

    def inverse(self, z: Tensor, hidden: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo it, by forward substitution."""
        location, log_scale, off = self._predict(hidden, z, reference)
        if self.off_diagonal:
            solved: list[Tensor] = []
            for i, row in enumerate(z.unbind(1)):
                solved.append(row - _row(off, i, solved))
            z = torch.stack(solved, dim=1)
        return location + z * torch.exp(log_scale), log_scale.sum(dim=(1, 2, 3))


def _row(off: Tensor, i: int, before: Sequence[Tensor]) -> Tensor | float:
    """Sum over j < i of M_ij x_j; the triangle is stored row by row."""
    start = i * (i - 1) // 2
    return sum((off[:, start + j] * x for j, x in enumerate(before)), 0.0)
