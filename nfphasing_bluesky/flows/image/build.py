"""Settings to flows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.image.box import ImageBox
from nfphasing_bluesky.flows.image.couplings import (
    ChannelCoupling,
    CheckerboardCoupling,
    ElementWise,
    ImageTransform,
)
from nfphasing_bluesky.flows.image.flow import ImageFlow
from nfphasing_bluesky.flows.image.gaussian import PixelGaussian
from nfphasing_bluesky.flows.image.level import Level
from nfphasing_bluesky.flows.image.networks import ConvConditioner, Trunk
from nfphasing_bluesky.flows.image.offset import Offset
from nfphasing_bluesky.flows.image.settings import WaveletFlowSettings
from nfphasing_bluesky.flows.image.whitening import Whitening

# Correlating the coefficients of a pixel costs n^2 / 2; beyond the bands of one Haar level it isn't worth it.
MOST_CORRELATED = 6


def build_image_flow(
    channels: int,
    feature_widths: Sequence[int],
    settings: WaveletFlowSettings | None = None,
    lower: Tensor | Sequence[float] | None = None,
    upper: Tensor | Sequence[float] | None = None,
    side: int = 64,
) -> ImageFlow:
    """Build box -> Haar levels, each a Gaussian and couplings.

    Args:
        channels: C of u.
        feature_widths: channels of the encoder's maps, coarse to fine (`ImageEncoder.widths`).
        settings: architecture; the default one for None.
        lower: (C,) lower bounds of u; None, as `upper`, for all of R.
        upper: (C,) upper bounds of u.
        side: of the images that it is trained on, px.

    Raises:
        SettingsError: the encoder has another number of resolutions than the flow, or bounds that don't fit.
    """
    settings = settings or WaveletFlowSettings()
    depth = len(settings.widths)
    if channels < 1 or depth != len(feature_widths):
        raise SettingsError(
            f"got C = {channels} and {len(feature_widths)} feature maps, expected C >= 1 and {depth} maps, "
            "as many as the flow halves the image; set the encoder's widths to that many"
        )
    coarsest = max(1, side // 2**depth)
    levels = [_level(settings, channels, feature_widths, 0, base=True)]
    whitenings = [Whitening(channels, coarsest)]
    for seen in range(depth):
        levels.append(_level(settings, channels, feature_widths, seen))
        whitenings.append(Whitening(3 * channels, coarsest * 2**seen))
    offset = Offset(channels, sum(feature_widths)) if settings.offset else None
    box = _box(channels, lower, upper)
    return ImageFlow(levels, whitenings, channels, feature_widths, box, offset)


def _box(
    channels: int, lower: Tensor | Sequence[float] | None, upper: Tensor | Sequence[float] | None
) -> ImageBox | None:
    if lower is None and upper is None:
        return None
    if lower is None or upper is None:
        raise SettingsError("got one of lower and upper, expected both or neither")
    box = ImageBox(torch.as_tensor(lower), torch.as_tensor(upper))
    if box.channels != channels:
        raise SettingsError(f"box has {box.channels} bounds, expected C = {channels}")
    return box


def _level(
    settings: WaveletFlowSettings, channels: int, widths: Sequence[int], seen: int, base: bool = False
) -> Level:
    """One level, at the resolution of the encoder's map `seen`; the base has no coarser image."""
    halvings = len(widths) - seen
    width, n = settings.widths[halvings - 1], channels if base else 3 * channels
    trunk = Trunk(widths[seen], 0 if base else channels, width, settings.blocks, coarse_scale=0.5**halvings)
    gaussian = PixelGaussian(n, width, correlated=n <= MOST_CORRELATED, referred=settings.referred)
    count = settings.couplings
    if base:
        count = 2 * count if settings.base_couplings is None else settings.base_couplings
    element_wise = ElementWise(settings)
    transforms: list[ImageTransform] = []
    for k in range(count):
        parity = k % 2
        fixed, moving = n, n
        if over_channels := n > 1 and k % 4 >= 2:
            moving = len(range(parity, n, 2))
            fixed = n - moving
        outputs = moving * element_wise.parameters_each
        conditioner = ConvConditioner(fixed, outputs, width, settings.coupling_blocks)
        if over_channels:
            transforms.append(ChannelCoupling(conditioner, element_wise, n, parity))
        else:
            transforms.append(CheckerboardCoupling(conditioner, element_wise, parity))
    return Level(trunk, gaussian, transforms, seen)
