"""Bounded support: a box to all of R^D and back, so that no draw ever leaves the prior."""

import torch
from torch import Tensor
from torch.nn import functional

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.transforms import Transform


class Box(Transform):
    """y = logit((x - lower) / (upper - lower)), exact near both edges.

    `inverse` gives values strictly inside the box, whatever the latent and the dtype. The bounds are kept
    in the default dtype, as weights are.

    Args:
        lower: (D,) lower bounds, finite.
        upper: (D,) upper bounds, finite and above `lower` by more than rounding.
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        lower, upper = (torch.as_tensor(v, dtype=torch.get_default_dtype()).clone() for v in (lower, upper))
        if lower.shape != upper.shape or lower.ndim != 1:
            raise SettingsError(
                f"box bounds have shapes {tuple(lower.shape)} and {tuple(upper.shape)}, expected (D,) both"
            )
        finite = bool(torch.isfinite(lower).all() and torch.isfinite(upper).all())
        if not finite or bool((upper - lower <= 16 * torch.finfo(lower.dtype).eps * lower.abs()).any()):
            raise SettingsError(
                f"box bounds are lower={lower.tolist()}, upper={upper.tolist()}; expected finite bounds with "
                "lower < upper by more than rounding; leave parameters that are known out of the flow"
            )
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)

    def contains(self, x: Tensor) -> Tensor:
        """(...) bool: x (..., D) within the closed box, give or take rounding.

        A prior that draws in other coordinates may land a rounding error beyond an edge.
        """
        slack = 4 * torch.finfo(x.dtype).eps * torch.maximum(self.lower.abs(), self.upper.abs())
        return ((x >= self.lower - slack) & (x <= self.upper + slack)).all(dim=-1)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map the box to R^D; values on or beyond an edge count as just inside it."""
        width = self.upper - self.lower
        least = width * torch.finfo(x.dtype).eps ** 3
        log_below = torch.maximum(x - self.lower, least).log()
        log_above = torch.maximum(self.upper - x, least).log()
        return log_below - log_above, (width.log() - log_below - log_above).sum(-1)

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map R^D into the box, measured from the nearer edge."""
        width = self.upper - self.lower
        step = width * torch.sigmoid(-y.abs())
        x = torch.where(y < 0, self.lower + step, self.upper - step)
        least, most = torch.nextafter(self.lower, self.upper), torch.nextafter(self.upper, self.lower)
        x = torch.minimum(torch.maximum(x, least), most)
        log_slope = width.log() - functional.softplus(y) - functional.softplus(-y)
        return x, log_slope.sum(-1)
