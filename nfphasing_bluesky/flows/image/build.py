"""Settings to flows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.flows.image.box import ImageBox
from nfphasing_bluesky.flows.image.couplings import (
    ChannelCoupling,
    ChannelMixing,
    CheckerboardCoupling,
    ElementWise,
    ImageTransform,
)
from nfphasing_bluesky.flows.image.flow import ImageFlow
from nfphasing_bluesky.flows.image.gaussian import PixelGaussian
from nfphasing_bluesky.flows.image.level import Level
from nfphasing_bluesky.flows.image.networks import ConvConditioner, Trunk
from nfphasing_bluesky.flows.image.settings import TokenFlowSettings, WaveletFlowSettings
from nfphasing_bluesky.flows.image.transformer import TokenConditioner
from nfphasing_bluesky.flows.image.whitening import Whitening

# Correlating the coefficients of a pixel costs n^2 / 2; beyond the bands of one Haar level it isn't worth it.
MOST_CORRELATED = 6


def build_image_flow(
    channels: int,
    feature_widths: Sequence[int],
    settings: WaveletFlowSettings | TokenFlowSettings | None = None,
    lower: Tensor | Sequence[float] | None = None,
    upper: Tensor | Sequence[float] | None = None,
    side: int = 64,
) -> ImageFlow:
    """Build box -> Haar levels, each a Gaussian and couplings.

    Args:
        channels: C of u.
        feature_widths: channels of the encoder's maps, coarse to fine (`ImageEncoder.widths`).
        settings: architecture of either flow; a wavelet flow by default.
        lower: (C,) lower bounds of u; None, as `upper`, for all of R.
        upper: (C,) upper bounds of u.
        side: of the images that it is trained on, px.

    Raises:
        SettingsError: the encoder has another number of resolutions than the flow, or bounds that don't fit.
    """
    settings = settings or WaveletFlowSettings()
    depth = sum(step.bit_length() - 1 for step in settings.steps)
    if channels < 1 or depth != len(feature_widths):
        raise SettingsError(
            f"got C = {channels} and {len(feature_widths)} feature maps, expected C >= 1 and {depth} maps, "
            "as many as the flow halves the image; set the encoder's widths to that many"
        )
    levels = [_level(settings, channels, feature_widths, 0, (0,))]
    resolution = max(1, side // 2**depth)
    whitenings = [Whitening(channels, resolution)]
    finest = 0
    for step in reversed(settings.steps):
        maps = tuple(range(finest, finest + step.bit_length() - 1))
        levels.append(_level(settings, channels, feature_widths, step, maps))
        whitenings.append(Whitening(channels * (step**2 - 1), resolution))
        resolution *= step
        finest += len(maps)
    return ImageFlow(
        levels, whitenings, settings.steps, channels, feature_widths, _box(channels, lower, upper)
    )


def _level(
    settings: WaveletFlowSettings | TokenFlowSettings,
    channels: int,
    widths: Sequence[int],
    step: int,
    maps: Sequence[int],
) -> Level:
    """One level; `step` is its factor of resolution, 0 for the base."""
    if isinstance(settings, WaveletFlowSettings):
        return _wavelet_level(settings, channels, widths, step, maps)
    return _token_level(settings, channels, widths, step, maps)


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


def _parts(
    channels: int, widths: Sequence[int], step: int, maps: Sequence[int], width: int, blocks: int
) -> tuple[Trunk, PixelGaussian]:
    """Trunk and Gaussian of a level."""
    features = sum(widths[m] * 4**k for k, m in enumerate(maps))
    coefficients = channels * (step**2 - 1) if step else channels
    halvings = len(widths) - maps[0]
    trunk = Trunk(features, channels if step else 0, width, blocks, coarse_scale=0.5**halvings)
    return trunk, PixelGaussian(coefficients, width, correlated=coefficients <= MOST_CORRELATED)


def _wavelet_level(
    settings: WaveletFlowSettings, channels: int, widths: Sequence[int], step: int, maps: Sequence[int]
) -> Level:
    width = settings.widths[len(widths) - 1 - maps[0]]
    trunk, gaussian = _parts(channels, widths, step, maps, width, settings.blocks)
    n = gaussian.coefficients
    count = settings.couplings
    if not step:
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
    return Level(trunk, gaussian, transforms, maps)


def _token_level(
    settings: TokenFlowSettings, channels: int, widths: Sequence[int], step: int, maps: Sequence[int]
) -> Level:
    trunk, gaussian = _parts(channels, widths, step, maps, settings.width, settings.blocks)
    n = gaussian.coefficients
    element_wise = ElementWise(settings)
    transforms: list[ImageTransform] = []
    for k in range(settings.couplings):
        if k and n > 1:
            transforms.append(ChannelMixing(n))
        outputs = n * element_wise.parameters_each
        conditioner = TokenConditioner(n, outputs, widths[0], settings.width, settings.heads, settings.layers)
        transforms.append(CheckerboardCoupling(conditioner, element_wise, k % 2))
    return Level(trunk, gaussian, transforms, maps)
