"""What a trained flow leaves in its noise: correlations along a frame, taken out by a linear map.

Convolutional couplings see a few pixels around them. Errors that a whole frame shares, such as a phase that
is too low everywhere, then remain in the noise that true images are mapped to, and the draws are too sure of
what is large. The noise of true images, fresh ones, tells how large its cosine components are on average;
divided by that they are of size 1 again, and draws have the errors that the truth has.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.flows.transforms import full_precision

SHRINKAGE = 8.0
"""Components count as if so many frames had shown a size of 1."""


def cosine_matrix(n: int, like: Tensor) -> Tensor:
    """(n, n) orthonormal DCT-II, rows are frequencies."""
    place = (torch.arange(n, dtype=torch.float64, device=like.device) + 0.5) * torch.pi / n
    matrix = torch.cos(torch.arange(n, dtype=torch.float64, device=like.device)[:, None] * place)
    matrix[0] *= 0.5**0.5
    return (matrix * (2.0 / n) ** 0.5).to(like.dtype)


class Whitening(nn.Module):
    """Scales the cosine components of a level's noise (N, n, h, w); the identity until it was fitted.

    Args:
        coefficients: n.
        side: of the square maps that it is fitted on; it is stretched over others.
    """

    log_scale: Tensor

    def __init__(self, coefficients: int, side: int) -> None:
        super().__init__()
        self.register_buffer("log_scale", torch.zeros(coefficients, side, side))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of true images to white noise, and log|det| (N,)."""
        log_scale = self._at(z)
        return self._scaled(z, -log_scale), -log_scale.sum().expand(z.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """White noise to the noise of true images, and log|det| (N,)."""
        log_scale = self._at(z)
        return self._scaled(z, log_scale), log_scale.sum().expand(z.shape[0])

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Fit to the noise z (N, n, side, side) of N true images, before any whitening."""
        rows, columns = (cosine_matrix(n, z) for n in z.shape[-2:])
        power = (rows @ z @ columns.mT).square().sum(0)
        self.log_scale.copy_(0.5 * ((power + SHRINKAGE) / (len(z) + SHRINKAGE)).log())

    def _at(self, z: Tensor) -> Tensor:
        """(n, h, w) log scales on the frequencies of a map."""
        log_scale = self.log_scale.to(z)
        if log_scale.shape[-2:] == z.shape[-2:]:
            return log_scale
        size = (z.shape[-2], z.shape[-1])
        return functional.interpolate(log_scale[None], size=size, mode="bilinear", align_corners=True)[0]

    def _scaled(self, z: Tensor, log_scale: Tensor) -> Tensor:
        rows, columns = (cosine_matrix(n, z) for n in z.shape[-2:])
        with full_precision(z):
            return rows.mT @ ((rows @ z @ columns.mT) * log_scale.exp()) @ columns
