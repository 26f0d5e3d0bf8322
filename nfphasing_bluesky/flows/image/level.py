"""One level of an image flow: its coefficients to noise, given the coarser image and the features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfphasing_bluesky.flows.image.couplings import ImageTransform
from nfphasing_bluesky.flows.image.gaussian import PixelGaussian
from nfphasing_bluesky.flows.image.networks import Given, Trunk


class Level(nn.Module):
    """p(coefficients | coarser image, features): a Gaussian next to the data, then transforms.

    Args:
        trunk: sees the features and the coarser image.
        gaussian: next to the data.
        transforms: behind it, first one next to the Gaussian.
        maps: which of the encoder's maps are seen, coarse to fine; the first one has this level's resolution,
            patches of the finer ones become channels.
    """

    def __init__(
        self,
        trunk: Trunk,
        gaussian: PixelGaussian,
        transforms: Sequence[ImageTransform],
        maps: Sequence[int],
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.gaussian = gaussian
        self.transforms = nn.ModuleList(transforms)
        self.maps = tuple(maps)

    def _given(self, coarse: Tensor | None, maps: tuple[Tensor, ...]) -> Given:
        seen = [maps[self.maps[0]]]
        seen += [functional.pixel_unshuffle(maps[m], 2**k) for k, m in enumerate(self.maps[1:], start=1)]
        return Given(self.trunk(torch.cat(seen, dim=1), coarse), maps)

    def _ordered(self) -> list[ImageTransform]:
        return [t for t in self.transforms if isinstance(t, ImageTransform)]

    def forward(self, x: Tensor, coarse: Tensor | None, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Coefficients (N, n, h, w) to noise, and log|det| (N,).

        Args:
            x: the coefficients.
            coarse: (N, C, h, w) the coarser image; None at the base.
            maps: of the encoder, (B, F, h, w) each.
        """
        given = self._given(coarse, maps)
        x, total = self.gaussian(x, given.hidden)
        for transform in self._ordered():
            x, log_det = transform(x, given)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, coarse: Tensor | None, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Noise to coefficients, in one pass."""
        given = self._given(coarse, maps)
        total = z.new_zeros(z.shape[0])
        for transform in reversed(self._ordered()):
            z, log_det = transform.inverse(z, given)
            total = total + log_det
        x, log_det = self.gaussian.inverse(z, given.hidden)
        return x, total + log_det
