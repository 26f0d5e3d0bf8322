"""Bounded support: a box to all of R^D and back, so that no draw ever leaves the prior."""

import math

import torch
from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.transforms import Transform

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def inside_box(y: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Values x strictly between the bounds whose Phi^-1((x - lower) / (upper - lower)) is y, all (..., D)."""
    step = (upper - lower) * (0.5 * torch.erfc(y.abs() * 0.5**0.5))
    x = torch.where(y < 0, lower + step, upper - step)
    return torch.minimum(torch.maximum(x, torch.nextafter(lower, upper)), torch.nextafter(upper, lower))


class Box(Transform):
    """y = Phi^-1((x - lower) / (upper - lower)), exact near both edges, Phi the normal distribution.

    What is uniform in the box is standard normal in y. `inverse` gives values strictly inside the box,
    whatever the latent and the dtype. The bounds are kept in the default dtype, as weights are.

    Args:
        lower: (D,) lower bounds, finite; minus infinity, with an infinite upper bound, for a coordinate
            that is left as it is.
        upper: (D,) upper bounds, above `lower` by more than rounding.
    """

    lower: Tensor
    upper: Tensor
    open: Tensor

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        lower, upper = (torch.as_tensor(v, dtype=torch.get_default_dtype()).clone() for v in (lower, upper))
        if lower.shape != upper.shape or lower.ndim != 1:
            raise SettingsError(
                f"box bounds have shapes {tuple(lower.shape)} and {tuple(upper.shape)}, expected (D,) both"
            )
        unbounded = torch.isneginf(lower) & torch.isposinf(upper)
        slack = 16 * torch.finfo(lower.dtype).eps * lower.abs()
        bounded = torch.isfinite(lower) & torch.isfinite(upper) & (upper - lower > slack)
        if not bool((unbounded | bounded).all()):
            raise SettingsError(
                f"box bounds are lower={lower.tolist()}, upper={upper.tolist()}; expected finite bounds with "
                "lower < upper by more than rounding, or both infinite; leave parameters that are known out "
                "of the flow"
            )
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        self.register_buffer("open", unbounded, persistent=False)

    def _edges(self) -> tuple[Tensor, Tensor]:
        """Bounds, 0 and 1 where there are none."""
        return self.lower.where(~self.open, 0.0), self.upper.where(~self.open, 1.0)

    def contains(self, x: Tensor) -> Tensor:
        """(...) bool: x (..., D) within the closed box, give or take rounding.

        A prior that draws in other coordinates may land a rounding error beyond an edge.
        """
        slack = 4 * torch.finfo(x.dtype).eps * torch.maximum(self.lower.abs(), self.upper.abs())
        return ((x >= self.lower - slack) & (x <= self.upper + slack)).all(dim=-1)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map the box to R^D; values on or beyond an edge count as just inside it."""
        lower, upper = self._edges()
        width = upper - lower
        least = torch.finfo(x.dtype).eps ** 3
        below = torch.maximum((x - lower) / width, x.new_tensor(least))
        above = torch.maximum((upper - x) / width, x.new_tensor(least))
        y = torch.special.ndtri(torch.minimum(below, above)) * torch.where(below < above, 1.0, -1.0)
        log_det = 0.5 * y.square() + HALF_LOG_2PI - width.log()
        return torch.where(self.open, x, y), log_det.where(~self.open, 0.0).sum(-1)

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map R^D into the box, measured from the nearer edge."""
        lower, upper = self._edges()
        x = inside_box(y, lower, upper)
        log_det = (upper - lower).log() - 0.5 * y.square() - HALF_LOG_2PI
        return torch.where(self.open, y, x), log_det.where(~self.open, 0.0).sum(-1)
