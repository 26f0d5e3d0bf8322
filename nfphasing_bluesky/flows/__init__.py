"""Invertible transforms, conditional flows, context encoders. torch only."""

from nfphasing_bluesky.flows.anchor import Anchor
from nfphasing_bluesky.flows.bounded_anchor import BoundedAnchor
from nfphasing_bluesky.flows.box import HALF_LOG_2PI, Box, inside_box
from nfphasing_bluesky.flows.conditional import ConditionalFlow, FlowDistribution, LatentSampler, build_flow
from nfphasing_bluesky.flows.couplings import AffineCoupling, SplineCoupling
from nfphasing_bluesky.flows.encoder import CurveEncoder, CurveNetwork, EncodedCurve
from nfphasing_bluesky.flows.gaussian import ConditionalAffine, ConditionalGaussian
from nfphasing_bluesky.flows.linear import LULinear, Permutation
from nfphasing_bluesky.flows.local import GOLDEN, FlowAndFits, LocalFits
from nfphasing_bluesky.flows.mixture import MixtureDistribution, MixtureOfFlows
from nfphasing_bluesky.flows.resample import (
    CHANNELS,
    CurveBins,
    CurveChannels,
    bin_centres,
    bin_curve,
    resample_curve,
)
from nfphasing_bluesky.flows.settings import (
    AnchorMap,
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
    "GOLDEN",
    "HALF_LOG_2PI",
    "AffineCoupling",
    "Anchor",
    "AnchorMap",
    "BoundedAnchor",
    "Box",
    "Chain",
    "ConditionalAffine",
    "ConditionalFlow",
    "ConditionalGaussian",
    "CouplingKind",
    "CurveBins",
    "CurveChannels",
    "CurveEncoder",
    "CurveNetwork",
    "EncodedCurve",
    "EncoderSettings",
    "FlowAndFits",
    "FlowDistribution",
    "FlowSettings",
    "LULinear",
    "LatentSampler",
    "LocalFits",
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
    "bin_curve",
    "build_flow",
    "inside_box",
    "resample_curve",
]
