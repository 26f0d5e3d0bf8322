"""Invertible transforms, conditional flows, context encoders. torch only."""

from nfphasing_bluesky.flows.box import Box
from nfphasing_bluesky.flows.conditional import ConditionalFlow, FlowDistribution, LatentSampler, build_flow
from nfphasing_bluesky.flows.couplings import AffineCoupling, SplineCoupling
from nfphasing_bluesky.flows.encoder import CurveEncoder, CurveNetwork, EncodedCurve
from nfphasing_bluesky.flows.gaussian import ConditionalAffine, ConditionalGaussian
from nfphasing_bluesky.flows.linear import LULinear, Permutation
from nfphasing_bluesky.flows.mixture import MixtureDistribution, MixtureOfFlows
from nfphasing_bluesky.flows.resample import CHANNELS, CurveChannels, bin_centres, resample_curve
from nfphasing_bluesky.flows.settings import (
    CouplingKind,
    EncoderSettings,
    FlowSettings,
    LogGrid,
    Mixing,
    Split,
    Standardiser,
)
from nfphasing_bluesky.flows.transforms import Chain, Transform

__all__ = [
    "CHANNELS",
    "AffineCoupling",
    "Box",
    "Chain",
    "ConditionalAffine",
    "ConditionalFlow",
    "ConditionalGaussian",
    "CouplingKind",
    "CurveChannels",
    "CurveEncoder",
    "CurveNetwork",
    "EncodedCurve",
    "EncoderSettings",
    "FlowDistribution",
    "FlowSettings",
    "LULinear",
    "LatentSampler",
    "LogGrid",
    "MixtureDistribution",
    "MixtureOfFlows",
    "Mixing",
    "Permutation",
    "SplineCoupling",
    "Split",
    "Standardiser",
    "Transform",
    "bin_centres",
    "build_flow",
    "resample_curve",
]
