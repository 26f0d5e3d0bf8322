"""Conditional flows of images and the encoder that conditions them. torch only."""

from nfphasing_bluesky.flows.image.attention import GAM, ChannelNAM, PixelNAM, SelfAttention
from nfphasing_bluesky.flows.image.box import ImageBox
from nfphasing_bluesky.flows.image.build import build_image_flow
from nfphasing_bluesky.flows.image.encoder import ImageEncoder, ImageFeatures
from nfphasing_bluesky.flows.image.flow import ImageFlow, ImageFlowDistribution, ImageLatentSampler
from nfphasing_bluesky.flows.image.haar import haar_merge, haar_split, merge_levels, split_levels
from nfphasing_bluesky.flows.image.level import Level
from nfphasing_bluesky.flows.image.settings import (
    Attention,
    ImageEncoderSettings,
    WaveletFlowSettings,
)

__all__ = [
    "GAM",
    "Attention",
    "ChannelNAM",
    "ImageBox",
    "ImageEncoder",
    "ImageEncoderSettings",
    "ImageFeatures",
    "ImageFlow",
    "ImageFlowDistribution",
    "ImageLatentSampler",
    "Level",
    "PixelNAM",
    "SelfAttention",
    "WaveletFlowSettings",
    "build_image_flow",
    "haar_merge",
    "haar_split",
    "merge_levels",
    "split_levels",
]
