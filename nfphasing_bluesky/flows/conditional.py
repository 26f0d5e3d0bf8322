"""Conditional flows: called with a context they are a distribution."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.anchor import Anchor
from nfphasing_bluesky.flows.bounded_anchor import BoundedAnchor
from nfphasing_bluesky.flows.box import Box
from nfphasing_bluesky.flows.couplings import AffineCoupling, SplineCoupling, split_masks
from nfphasing_bluesky.flows.gaussian import ConditionalAffine, ConditionalGaussian
from nfphasing_bluesky.flows.linear import LULinear, Permutation
from nfphasing_bluesky.flows.settings import AnchorMap, CouplingKind, FlowSettings, Mixing, Standardiser
from nfphasing_bluesky.flows.transforms import Chain, Transform

LOG_2PI = math.log(2 * math.pi)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log density of (..., D) under the standard normal, (...)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


class FlowDistribution:
    """q(theta | context) for B contexts. Made by calling a `ConditionalFlow`."""

    def __init__(self, flow: "ConditionalFlow", context: Tensor, anchor: Anchor | None = None) -> None:
        self.flow = flow
        self.context = context
        self.anchor = anchor

    @property
    def batch(self) -> int:
        """B, the number of contexts."""
        return self.context.shape[0]

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log density (..., B) of theta (..., B, D); minus infinity outside the box."""
        z, log_det = self.to_latent(theta)
        log_prob = standard_normal_log_prob(z) + log_det
        if self.flow.box is None:
            return log_prob
        return log_prob.masked_fill(~self.flow.box.contains(theta), -math.inf)

    def to_latent(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Latent z (..., B, D) of theta (..., B, D) and log|det dz/dtheta| (..., B)."""
        y = self._checked(theta)
        log_det = y.new_zeros(y.shape[:-1])
        if self.flow.box is not None:
            y, term = self.flow.box(y, self.context)
            log_det = log_det + term
        if self.anchor is not None:
            y, term = self.anchor.standardise(y)
            log_det = log_det + term
        z, term = self.flow.transform(y, self.context)
        return z, log_det + term

    def from_latent(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Theta (..., B, D) of latent noise z (..., B, D), and its log density (..., B), in one pass."""
        z = self._checked(z)
        y, log_det = self.flow.transform.inverse(z, self.context)
        if self.anchor is not None:
            y, term = self.anchor.restore(y)
            log_det = log_det + term
        if self.flow.box is not None:
            y, term = self.flow.box.inverse(y, self.context)
            log_det = log_det + term
        return y, standard_normal_log_prob(z) - log_det

    def rsample_and_log_prob(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Differentiable draws (*shape, B, D) and their log densities (*shape, B)."""
        return self.from_latent(self._noise(shape, generator))

    def rsample(self, shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Differentiable draws (*shape, B, D)."""
        return self.rsample_and_log_prob(shape, generator)[0]

    @torch.no_grad()
    def sample(self, shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws (*shape, B, D) without a graph."""
        return self.rsample(shape, generator)

    def _noise(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        size = (*shape, self.batch, self.flow.dimension)
        return torch.randn(
            size, generator=generator, dtype=self.flow.working_dtype, device=self.context.device
        )

    def _checked(self, x: Tensor) -> Tensor:
        """Theta or z in the working dtype."""
        if x.ndim < 2 or x.shape[-2:] != (self.batch, self.flow.dimension):
            raise SettingsError(
                f"got shape {tuple(x.shape)}, expected (..., B, D) with B = {self.batch} contexts and "
                f"D = {self.flow.dimension}; put draws in front of the batch"
            )
        return x.to(self.flow.working_dtype)


class ConditionalFlow(nn.Module):
    """From theta (..., B, D) to a standard normal, given context (B, E): box, anchor, chain of transforms.

    Args:
        transforms: of the chain, first one next to the data.
        dimension: D.
        context_dimension: E.
        box: the bounded support, or None for all of R^D.
        anchor_map: how coordinates are counted from an anchor.
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        dimension: int,
        context_dimension: int,
        box: Box | None = None,
        anchor_map: AnchorMap = AnchorMap.LINEAR,
    ) -> None:
        super().__init__()
        self.box = box
        self.anchor_map = anchor_map
        self.transform = Chain(transforms)
        self.dimension = dimension
        self.context_dimension = context_dimension

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def working_dtype(self) -> torch.dtype:
        """Of theta, z and densities: that of the weights, never less than float32."""
        return torch.promote_types(self.dtype, torch.float32)

    def forward(self, context: Tensor, anchor: Anchor | None = None) -> FlowDistribution:
        """Condition on (B, E), and start from an anchor of each context where there is one.

        Raises:
            SettingsError: the context has another shape.
        """
        if context.ndim != 2 or context.shape[-1] != self.context_dimension:
            raise SettingsError(
                f"context has shape {tuple(context.shape)}, expected (B, E) with E = {self.context_dimension}"
            )
        if anchor is not None and self.anchor_map is AnchorMap.BOUNDED:
            anchor = BoundedAnchor(anchor.location, anchor.factor, anchor.features)
        return FlowDistribution(self, context.to(self.dtype), anchor)


class LatentSampler(nn.Module):
    """A flow as a plain function of tensors, for `torch.export`."""

    def __init__(self, flow: ConditionalFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, context: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Theta (S, B, D) and its log density (S, B) of noise z (S, B, D) given context (B, E)."""
        distribution: FlowDistribution = self.flow(context)
        return distribution.from_latent(z)


def build_flow(
    dimension: int,
    context_dimension: int,
    lower: Tensor | Sequence[float] | None = None,
    upper: Tensor | Sequence[float] | None = None,
    settings: FlowSettings | None = None,
) -> ConditionalFlow:
    """Build box -> (anchor ->) standardiser -> (coupling, mixing) x layers.

    Args:
        dimension: D, at least 1.
        context_dimension: E, at least 1.
        lower: (D,) lower bounds of theta; None, as `upper`, for all of R^D.
        upper: (D,) upper bounds of theta.
        settings: architecture.

    Raises:
        SettingsError: no dimensions, nothing to train, or bounds of another shape or order.
    """
    settings = settings or FlowSettings()
    if dimension < 1 or context_dimension < 1:
        raise SettingsError(f"D = {dimension} and E = {context_dimension}, expected at least 1 each")
    transforms = _standardiser(dimension, context_dimension, settings)
    transforms += _couplings(dimension, context_dimension, settings)
    if not any(True for t in transforms for _ in t.parameters()):
        raise SettingsError("the flow has no weights: neither layers nor a standardiser; set layers >= 1")
    box = _box(dimension, lower, upper)
    return ConditionalFlow(transforms, dimension, context_dimension, box, settings.anchor)


def _box(
    dimension: int, lower: Tensor | Sequence[float] | None, upper: Tensor | Sequence[float] | None
) -> Box | None:
    if lower is None and upper is None:
        return None
    if lower is None or upper is None:
        raise SettingsError("got one of lower and upper, expected both or neither")
    box = Box(torch.as_tensor(lower), torch.as_tensor(upper))
    if box.lower.numel() != dimension:
        raise SettingsError(f"box has {box.lower.numel()} bounds, expected D = {dimension}")
    return box


def _standardiser(dimension: int, context: int, settings: FlowSettings) -> list[Transform]:
    if settings.standardiser is Standardiser.NONE:
        return []
    cls = ConditionalGaussian if settings.standardiser is Standardiser.GAUSSIAN else ConditionalAffine
    return [cls(dimension, context, settings.head_hidden, settings.head_blocks)]


def _couplings(dimension: int, context: int, settings: FlowSettings) -> list[Transform]:
    generator = torch.Generator().manual_seed(settings.seed)
    transforms: list[Transform] = []
    for mask in split_masks(dimension, settings.layers, settings.split, generator):
        if transforms and dimension > 1:
            lu = settings.mixing is Mixing.LU
            transforms.append(LULinear(dimension) if lu else Permutation(dimension, generator))
        if settings.kind is CouplingKind.AFFINE:
            transforms.append(AffineCoupling(mask, context, settings.hidden, settings.blocks))
        else:
            spline = SplineCoupling(
                mask, context, settings.hidden, settings.blocks, settings.bins, settings.tail_bound
            )
            transforms.append(spline)
    return transforms
