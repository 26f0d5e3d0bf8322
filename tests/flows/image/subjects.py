"""Subjects of the contract suite: image flows with and without bounds."""

import torch
from torch import nn

from nfphasing_bluesky.flows.image import (
    WaveletFlowSettings,
    build_image_flow,
)

WAVELET = {"widths": (8, 8), "couplings": 4, "base_couplings": 3}
BOUNDS = ([-1.0, 2.0], [3.0, 2.5])

# settings, channels of u, whether it is bounded
FLOWS = {
    "wavelet": (WaveletFlowSettings(**WAVELET), 1, False),
    "wavelet, two channels, box": (WaveletFlowSettings(**WAVELET), 2, True),
    "wavelet, splines, box": (WaveletFlowSettings(**WAVELET, kind="spline", bins=4), 1, True),
    "wavelet, gaussian alone": (WaveletFlowSettings(widths=(8, 8), couplings=0), 2, False),
    "wavelet, offset": (WaveletFlowSettings(**WAVELET, offset=True), 2, False),
    "wavelet, referred, box": (WaveletFlowSettings(**WAVELET, referred=True), 2, True),
}


def unsettle(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Move every weight, so that nothing is the identity any more."""
    seeded = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter += scale * torch.randn(parameter.shape, generator=seeded) / max(1.0, fan**0.5)
    return module


def reference_for(flow: nn.Module, batch: int, size: int, seed: int = 11) -> torch.Tensor | None:
    """What a flow that follows a reference is given; None for others."""
    if not flow.referred:
        return None
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(batch, flow.channels, size, size, generator=generator, dtype=torch.float64)
    return made.to(flow.dtype)


def make_flow(name: str, feature_widths=(8, 8)) -> nn.Module:
    settings, channels, boxed = FLOWS[name]
    lower, upper = (v[:channels] for v in BOUNDS) if boxed else (None, None)
    # a box squeezes what lies many standard deviations out into rounding errors of its edge
    return unsettle(
        build_image_flow(channels, feature_widths, settings, lower, upper), scale=0.1 if boxed else 0.3
    )
