"""Settings of image encoders and image flows."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

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


class _CouplingSettings(Settings):
    """What both image flows have in common; `tail_bound` is in standardised units, as in `FlowSettings`."""

    kind: CouplingKind = CouplingKind.AFFINE
    bins: Annotated[int, Field(ge=2, le=64)] = 8
    tail_bound: Annotated[float, Field(gt=0, le=100)] = 5.0


class WaveletFlowSettings(_CouplingSettings):
    """Conditional wavelet flow: Haar levels coarse to fine, convolutional couplings at each.

    Args:
        flow: tells the settings of one flow from those of another.
        widths: channels of the networks at 1/2, 1/4, ... of the image's resolution; as many Haar levels.
        blocks: residual blocks of the network that sees the coarser image and the features.
        couplings: a level.
        base_couplings: of the coarsest image; None for twice as many as a level's.
        coupling_blocks: residual blocks of a coupling's own network.
    """

    flow: Literal["wavelet"] = "wavelet"
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (32, 48, 64)
    blocks: Annotated[int, Field(ge=0, le=16)] = 1
    couplings: Annotated[int, Field(ge=0, le=64)] = 4
    base_couplings: Annotated[int, Field(ge=0, le=64)] | None = None
    coupling_blocks: Annotated[int, Field(ge=0, le=16)] = 1

    @property
    def steps(self) -> tuple[int, ...]:
        """Factors of resolution between levels, finest first."""
        return (2,) * len(self.widths)


class TokenFlowSettings(_CouplingSettings):
    """Couplings of patch tokens whose parameters come from transformers.

    Args:
        flow: tells the settings of one flow from those of another.
        steps: factors of resolution between levels, finest first; a token is a patch of that many pixels
            squared, less its mean.
        width: of the tokens inside the transformers.
        heads: of the attention.
        layers: transformer blocks a coupling.
        couplings: a level; they alternate between the two halves of a checkerboard of tokens.
        blocks: convolutional residual blocks of the network that sees the coarser image and the features.
    """

    flow: Literal["token"] = "token"
    steps: Annotated[tuple[Literal[2, 4, 8], ...], Field(min_length=1, max_length=6)] = (4, 2)
    width: Width = 64
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    layers: Annotated[int, Field(ge=1, le=16)] = 2
    couplings: Annotated[int, Field(ge=0, le=64)] = 4
    blocks: Annotated[int, Field(ge=0, le=16)] = 1

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 4 x heads = {4 * self.heads}")
        return self


ImageFlowSettings = Annotated[WaveletFlowSettings | TokenFlowSettings, Field(discriminator="flow")]
