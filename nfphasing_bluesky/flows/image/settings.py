"""Settings of image encoders and image flows."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from nfphasing_bluesky.core import Settings
from nfphasing_bluesky.flows.settings import CouplingKind

Width = Annotated[int, Field(ge=4, le=4096)]


class Attention(StrEnum):
    """Attention at the end of the encoder's residual blocks.

    `nam` is NAM's channel attention, `nam_pixel` adds its spatial one, `self` is multi-head self-attention.
    """

    NONE = "none"
    NAM = "nam"
    NAM_PIXEL = "nam_pixel"
    GAM = "gam"
    SELF = "self"


class ImageEncoderSettings(Settings):
    """Architecture of the image encoder, a U-Net.

    Args:
        widths: channels at 1/2, 1/4, 1/8, ... of the image's resolution; one feature map comes from each.
        blocks: residual blocks at each resolution on the way down, and again on the way up.
        extras: E, scalars given beside the image.
        attention: kind of attention.
        attention_levels: coarsest resolutions whose blocks have it; None for all, for `self` the coarsest.
        heads: of self-attention.
        reduction: of GAM's hidden channels.
        pixel_grid: side of the grid of NAM's pixel scales; it is stretched over feature maps of other sizes.
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (32, 48, 64)
    blocks: Annotated[int, Field(ge=1, le=16)] = 1
    extras: Annotated[int, Field(ge=0, le=1024)] = 0
    attention: Attention = Attention.NONE
    attention_levels: Annotated[int, Field(ge=0, le=6)] | None = None
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    reduction: Annotated[int, Field(ge=1, le=64)] = 4
    pixel_grid: Annotated[int, Field(ge=1, le=256)] = 8


class WaveletFlowSettings(Settings):
    """Conditional wavelet flow: Haar levels coarse to fine, convolutional couplings at each.

    Args:
        flow: kind of flow, which cards name.
        kind: of the couplings.
        bins: of splines.
        tail_bound: where splines end, in standardised units, as in `FlowSettings`.
        widths: channels of the networks at 1/2, 1/4, ... of the image's resolution; as many Haar levels.
        blocks: residual blocks of the network that sees the coarser image and the features.
        couplings: a level.
        base_couplings: of the coarsest image; None for twice as many as a level's.
        coupling_blocks: residual blocks of a coupling's own network.
        offset: let the features say how well the image's mean is known (`Offset`).
        referred: follow the features' reference where it is good (`PixelGaussian`).
    """

    flow: Literal["wavelet"] = "wavelet"
    kind: CouplingKind = CouplingKind.AFFINE
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    tail_bound: Annotated[float, Field(gt=0, le=100)] = 5.0
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (32, 48, 64)
    blocks: Annotated[int, Field(ge=0, le=16)] = 1
    couplings: Annotated[int, Field(ge=0, le=64)] = 4
    base_couplings: Annotated[int, Field(ge=0, le=64)] | None = None
    coupling_blocks: Annotated[int, Field(ge=0, le=16)] = 1
    offset: bool = False
    referred: bool = False
