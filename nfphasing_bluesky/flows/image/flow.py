"""Conditional flows of images: called with the features of an encoder they are a distribution."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.box import HALF_LOG_2PI
from nfphasing_bluesky.flows.image.box import ImageBox
from nfphasing_bluesky.flows.image.encoder import ImageEncoder, ImageFeatures
from nfphasing_bluesky.flows.image.haar import haar_merge, merge_levels, split_levels
from nfphasing_bluesky.flows.image.level import Level
from nfphasing_bluesky.flows.image.offset import Offset
from nfphasing_bluesky.flows.image.whitening import Whitening


class ImageFlowDistribution:
    """q(u | features) for B contexts. Made by calling an `ImageFlow`.

    Noise z has the shape of u. Its Haar coefficients are what the levels turn into those of u, so that z is
    white noise in real space too: tiles cut from one field of noise give draws that match where they overlap.
    """

    def __init__(self, flow: "ImageFlow", features: ImageFeatures) -> None:
        self.flow = flow
        self.features = features

    @property
    def batch(self) -> int:
        """B, the number of contexts."""
        return self.features.maps[-1].shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        rows, columns = self.features.maps[-1].shape[-2:]
        return self.flow.channels, 2 * rows, 2 * columns

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density (..., B) of u (..., B, C, H, W); minus infinity outside the box."""
        z, log_det = self.to_latent(u)
        log_prob = _normal_log_prob(z) + log_det
        if self.flow.box is None:
            return log_prob
        return log_prob.masked_fill(~self.flow.box.contains(u), -math.inf)

    def level_log_probs(self, u: Tensor) -> Tensor:
        """Log densities (..., B, 1 + L): coarsest image, details of each level given what is coarser.

        In the unbounded coordinates: their sum is `log_prob` less the box's log-determinant. A level's term
        depends on the weights of that level and of the encoder alone, hence levels can be trained one by one.
        """
        y, _ = self._unbounded(self._checked(u))
        terms = [_normal_log_prob(z) + log_det for z, log_det in self._levels_to_latent(y)]
        return torch.stack(terms, dim=-1).unflatten(0, u.shape[:-3])

    def to_latent(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Noise z (..., B, C, H, W) of u (..., B, C, H, W) and log|det dz/du| (..., B)."""
        y, total = self._unbounded(self._checked(u))
        parts = []
        for z, log_det in self._levels_to_latent(y):
            parts.append(z)
            total = total + log_det
        z = merge_levels(parts)
        return z.unflatten(0, u.shape[:-3]), total.unflatten(0, u.shape[:-3])

    def from_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images u (..., B, C, H, W) of noise z, and their log density (..., B), in one pass.

        Args:
            z: (..., B, C, H, W), or flat, (..., B, C H W).
        """
        if z.ndim >= 2 and z.shape[-2:] == (self.batch, math.prod(self.shape)):
            z = z.unflatten(-1, self.shape)
        flat = self._checked(z)
        log_prob = _normal_log_prob(flat)
        coloured = []
        parts = split_levels(flat, len(self.flow.feature_widths))
        if self.flow.offset is not None:
            parts[0], log_det = self.flow.offset.inverse(parts[0], self.features.embedding)
            log_prob = log_prob - log_det
        for whitening, part in zip(self.flow.ordered_whitenings(), parts, strict=True):
            part, log_det = whitening.inverse(part)
            log_prob = log_prob - log_det
            coloured.append(part)
        base, *details = coloured
        first, *others = self.flow.ordered_levels()
        near, *nearby = self._references()
        y, log_det = first.inverse(base, None, self.features.maps, near)
        log_prob = log_prob - log_det
        for level, part, near in zip(others, details, nearby, strict=True):
            part, log_det = level.inverse(part, y, self.features.maps, near)
            y = haar_merge(y, part)
            log_prob = log_prob - log_det
        if self.flow.box is not None:
            y, log_det = self.flow.box.inverse(y)
            log_prob = log_prob - log_det
        return y.unflatten(0, z.shape[:-3]), log_prob.unflatten(0, z.shape[:-3])

    def rsample_and_log_prob(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Differentiable draws (*shape, B, C, H, W) and their log densities (*shape, B)."""
        size = (*shape, self.batch, *self.shape)
        device = self.features.maps[-1].device
        return self.from_latent(
            torch.randn(size, generator=generator, dtype=self.flow.working_dtype, device=device)
        )

    def rsample(self, shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Differentiable draws (*shape, B, C, H, W)."""
        return self.rsample_and_log_prob(shape, generator)[0]

    @torch.no_grad()
    def sample(self, shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws (*shape, B, C, H, W) without a graph."""
        return self.rsample(shape, generator)

    def _levels_to_latent(self, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """White noise and log|det| of each level, base first, for y (N, C, H, W)."""
        results = []
        for whitening, (z, log_det) in zip(self.flow.ordered_whitenings(), self.coloured(y), strict=True):
            z, term = whitening(z)
            results.append((z, log_det + term))
        if self.flow.offset is not None:
            z, term = self.flow.offset(results[0][0], self.features.embedding)
            results[0] = z, results[0][1] + term
        return results

    def coloured(self, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Noise before any whitening, and log|det| of each level, base first, for y (N, C, H, W)."""
        base, *details = split_levels(y, len(self.flow.feature_widths))
        first, *others = self.flow.ordered_levels()
        near, *nearby = self._references()
        results = [first(base, None, self.features.maps, near)]
        coarse = base
        for k, (level, part, near) in enumerate(zip(others, details, nearby, strict=True)):
            results.append(level(part, coarse, self.features.maps, near))
            if k + 1 < len(others):
                coarse = haar_merge(coarse, part)
        return results

    def _references(self) -> Sequence[Tensor | None]:
        """Haar parts of the reference, base first."""
        depth = len(self.flow.feature_widths)
        if self.features.reference is None:
            return [None] * (depth + 1)
        return split_levels(self.features.reference.to(self.flow.working_dtype), depth)

    def _unbounded(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.flow.box is None:
            return u, u.new_zeros(u.shape[0])
        return self.flow.box(u)

    def _checked(self, x: Tensor) -> Tensor:
        """Images or noise in the working dtype, draws folded into the batch: (N, C, H, W)."""
        if x.ndim < 4 or x.shape[-4:] != (self.batch, *self.shape):
            raise SettingsError(
                f"got shape {tuple(x.shape)}, expected (..., B, C, H, W) with B = {self.batch} contexts and "
                f"(C, H, W) = {self.shape}, or noise (..., B, C H W); put draws in front of the batch"
            )
        return x.to(self.flow.working_dtype).reshape(-1, *self.shape)


def _normal_log_prob(z: Tensor) -> Tensor:
    """Log density (...) of (..., C, H, W) under the standard normal."""
    return -(0.5 * z.square() + HALF_LOG_2PI).sum(dim=(-3, -2, -1))


class ImageFlow(nn.Module):
    """From images u (..., B, C, H, W) to white noise, given `ImageFeatures`: box, Haar levels, couplings.

    Args:
        levels: base first, then coarse to fine.
        whitenings: one a level.
        channels: C.
        feature_widths: channels of the encoder's maps, coarse to fine.
        box: the bounded support, or None for all of R.
        offset: of the coarsest image, or None for one that is the same for all frames.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        whitenings: Sequence[Whitening],
        channels: int,
        feature_widths: Sequence[int],
        box: ImageBox | None = None,
        offset: Offset | None = None,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.whitenings = nn.ModuleList(whitenings)
        self.channels = channels
        self.feature_widths = tuple(feature_widths)
        self.box = box
        self.offset = offset

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def working_dtype(self) -> torch.dtype:
        """Of u, z and densities: that of the weights, never less than float32."""
        return torch.promote_types(self.dtype, torch.float32)

    def ordered_levels(self) -> list[Level]:
        """Base, then coarse to fine."""
        return [level for level in self.levels if isinstance(level, Level)]

    def ordered_whitenings(self) -> list[Whitening]:
        """Those of `ordered_levels`."""
        return [whitening for whitening in self.whitenings if isinstance(whitening, Whitening)]

    @property
    def referred(self) -> bool:
        """Whether it follows a reference."""
        return any(level.gaussian.followed for level in self.ordered_levels())

    @torch.no_grad()
    def settle(self, noise: Sequence[Tensor], embedding: Tensor) -> None:
        """Fit what is left to fit after training to noise of fresh true images.

        Args:
            noise: of each level before any whitening, base first, (n, c, h, w).
            embedding: (n, E) of the same images.
        """
        for whitening, coloured in zip(self.ordered_whitenings(), noise, strict=True):
            whitening.fit(coloured)
        if self.offset is not None:
            self.offset.fit(self.ordered_whitenings()[0](noise[0])[0], embedding)

    @torch.no_grad()
    def initialise(self, u: Tensor) -> None:
        """Start every level from means and scales over images u (n, C, H, W), of the prior say."""
        y = u.to(self.working_dtype)
        if self.box is not None:
            y, _ = self.box(y)
        coarse, *details = split_levels(y, len(self.feature_widths))
        first, *others = self.ordered_levels()
        first.gaussian.initialise(coarse)
        for level, part in zip(others, details, strict=True):
            level.gaussian.initialise(part)
            level.trunk.initialise(coarse)
            coarse = haar_merge(coarse, part)

    def forward(self, features: ImageFeatures) -> ImageFlowDistribution:
        """Condition on the features of B images.

        Raises:
            SettingsError: the features are not those of an encoder the flow was built for.
        """
        widths = tuple(m.shape[1] for m in features.maps)
        if widths != self.feature_widths:
            raise SettingsError(
                f"features have maps of {widths} channels, expected {self.feature_widths}, coarse to fine"
            )
        if (features.reference is not None) != self.referred:
            have = "no" if features.reference is None else "a"
            raise SettingsError(
                f"features have {have} reference, expected {'one' if self.referred else 'none'} for this "
                "flow; see WaveletFlowSettings.referred"
            )
        return ImageFlowDistribution(self, features)


class ImageLatentSampler(nn.Module):
    """An encoder and a flow as a plain function of tensors, for `torch.export`."""

    def __init__(self, encoder: ImageEncoder, flow: ImageFlow) -> None:
        super().__init__()
        self.encoder, self.flow = encoder, flow

    def forward(
        self, images: Tensor, scalars: Tensor | None, z: Tensor, reference: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws (S, B, C, H, W) and log densities (S, B) of noise z.

        Given images (B, C_in, H, W), scalars (B, E) and, for flows that follow one, a reference (B, C, H, W).
        """
        features = self.encoder(images, scalars)._replace(reference=reference)
        distribution: ImageFlowDistribution = self.flow(features)
        return distribution.from_latent(z)
