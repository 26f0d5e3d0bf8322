"""Couplings of images: half of the pixels, or half of the channels, changed element by element."""

import torch
from torch import Tensor, nn

from nfphasing_bluesky.flows.couplings import MAX_LOG_SCALE
from nfphasing_bluesky.flows.image.settings import WaveletFlowSettings
from nfphasing_bluesky.flows.settings import CouplingKind
from nfphasing_bluesky.flows.spline import knots, spline_forward, spline_inverse


class ImageTransform(nn.Module):
    """An invertible map of (N, n, h, w) given a hidden map (N or B, F, h, w); log-determinants are (N,)."""

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latent."""
        raise NotImplementedError

    def inverse(self, y: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map latent to data."""
        raise NotImplementedError


class ElementWise(nn.Module):
    """Affine or spline map of every element, as in the couplings of vectors; it has no weights."""

    def __init__(self, settings: WaveletFlowSettings) -> None:
        super().__init__()
        self.affine = settings.kind is CouplingKind.AFFINE
        self.bins, self.bound = settings.bins, settings.tail_bound
        self.parameters_each = 2 if self.affine else 3 * settings.bins - 1

    def forward(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Map x (N, n, h, w) given (N, n P, h, w): values and log slopes, (N, n, h, w)."""
        parameters = parameters.to(x.dtype).unflatten(1, (x.shape[1], self.parameters_each))
        if not self.affine:
            table = knots(parameters.movedim(2, -1), self.bins, self.bound)
            return (spline_inverse if inverse else spline_forward)(x, table, self.bound)
        shift, raw = parameters.unbind(2)
        log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
        if inverse:
            return (x - shift) * torch.exp(-log_scale), -log_scale
        return x * torch.exp(log_scale) + shift, log_scale


class CheckerboardCoupling(ImageTransform):
    """Moves every pixel with (row + column) % 2 == parity, given the others.

    Args:
        conditioner: of (N, n, h, w), zero where pixels move, to (N, n P, h, w).
        element_wise: what it gives the parameters of.
        parity: 0 or 1.
    """

    def __init__(self, conditioner: nn.Module, element_wise: ElementWise, parity: int) -> None:
        super().__init__()
        self.conditioner, self.element_wise, self.parity = conditioner, element_wise, parity

    def _move(self, x: Tensor, hidden: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        moving = checkerboard(x, self.parity)
        parameters = self.conditioner(x.masked_fill(moving, 0.0), hidden)
        moved, log_slopes = self.element_wise(x, parameters, inverse)
        total = log_slopes.masked_fill(~moving, 0.0).sum(dim=(1, 2, 3))
        return torch.where(moving, moved, x), total

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Move half of the pixels."""
        return self._move(x, hidden, inverse=False)

    def inverse(self, y: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Move them back, at the same cost."""
        return self._move(y, hidden, inverse=True)


def checkerboard(x: Tensor, parity: int) -> Tensor:
    """(h, w) bool, True where (row + column) % 2 == parity, of the size of x (..., h, w)."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[-2:])
    return (rows[:, None] + columns + parity) % 2 == 0


class ChannelCoupling(ImageTransform):
    """Moves channels of one parity, given those of the other.

    Args:
        conditioner: of (N, m, h, w), the fixed channels, to (N, (n - m) P, h, w).
        element_wise: what it gives the parameters of.
        channels: n, at least 2.
        parity: 0 or 1.
    """

    fixed: Tensor
    moving: Tensor
    restore: Tensor

    def __init__(self, conditioner: nn.Module, element_wise: ElementWise, channels: int, parity: int) -> None:
        super().__init__()
        self.conditioner, self.element_wise = conditioner, element_wise
        self.register_buffer("fixed", torch.arange(1 - parity, channels, 2), persistent=False)
        self.register_buffer("moving", torch.arange(parity, channels, 2), persistent=False)
        order = torch.argsort(torch.cat((self.fixed, self.moving)))
        self.register_buffer("restore", order, persistent=False)

    def _move(self, x: Tensor, hidden: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        fixed, moving = x.index_select(1, self.fixed), x.index_select(1, self.moving)
        moved, log_slopes = self.element_wise(moving, self.conditioner(fixed, hidden), inverse)
        joined = torch.cat((fixed, moved), dim=1).index_select(1, self.restore)
        return joined, log_slopes.sum(dim=(1, 2, 3))

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Move half of the channels."""
        return self._move(x, hidden, inverse=False)

    def inverse(self, y: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Move them back, at the same cost."""
        return self._move(y, hidden, inverse=True)
