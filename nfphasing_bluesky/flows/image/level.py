"""One level of an image flow: its coefficients to noise, given the coarser image and the features."""

from collections.abc import Sequence

from torch import Tensor, nn

from nfphasing_bluesky.flows.image.couplings import ImageTransform
from nfphasing_bluesky.flows.image.gaussian import PixelGaussian
from nfphasing_bluesky.flows.image.networks import Trunk


class Level(nn.Module):
    """p(coefficients | coarser image, features): a Gaussian next to the data, then transforms.

    Args:
        trunk: sees the features and the coarser image.
        gaussian: next to the data.
        transforms: behind it, first one next to the Gaussian.
        seen: which of the encoder's maps, coarse to fine, has this level's resolution.
    """

    def __init__(
        self,
        trunk: Trunk,
        gaussian: PixelGaussian,
        transforms: Sequence[ImageTransform],
        seen: int,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.gaussian = gaussian
        self.transforms = nn.ModuleList(transforms)
        self.seen = seen

    def _hidden(self, coarse: Tensor | None, maps: tuple[Tensor, ...]) -> Tensor:
        hidden: Tensor = self.trunk(maps[self.seen], coarse)
        return hidden

    def _ordered(self) -> list[ImageTransform]:
        return [t for t in self.transforms if isinstance(t, ImageTransform)]

    def forward(
        self,
        x: Tensor,
        coarse: Tensor | None,
        maps: tuple[Tensor, ...],
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Coefficients (N, n, h, w) to noise, and log|det| (N,).

        Args:
            x: the coefficients.
            coarse: (N, C, h, w) the coarser image; None at the base.
            maps: of the encoder, (B, F, h, w) each.
            reference: an estimate of the coefficients, (B, n, h, w).
        """
        hidden = self._hidden(coarse, maps)
        x, total = self.gaussian(x, hidden, reference)
        for transform in self._ordered():
            x, log_det = transform(x, hidden)
            total = total + log_det
        return x, total

    def inverse(
        self,
        z: Tensor,
        coarse: Tensor | None,
        maps: tuple[Tensor, ...],
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Noise to coefficients, in one pass."""
        hidden = self._hidden(coarse, maps)
        total = z.new_zeros(z.shape[0])
        for transform in reversed(self._ordered()):
            z, log_det = transform.inverse(z, hidden)
            total = total + log_det
        x, log_det = self.gaussian.inverse(z, hidden, reference)
        return x, total + log_det
