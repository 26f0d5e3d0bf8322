"""What is not known of a simulated scan: errors of positions and probe, a beam that flickers, background.

Measured scans have them, and a model that never saw any is too sure of itself. Letters: N scans, J frames
of each, P probe modes, H, W frame.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.modalities.batches import Rows
from nfphasing_bluesky.modalities.imaging.patterns import Conditions
from nfphasing_bluesky.physics.imaging.probes import smooth_fields
from nfphasing_bluesky.physics.objects.draws import chance, each, log_uniform, normal
from nfphasing_bluesky.physics.ptychography import wave_intensity

POSITION_PX = (0.02, 0.7)
PROBE = (0.003, 0.15)
"""Relative root mean square error of the probe."""

PROBE_WIDTH_PX = (2.0, 12.0)
FLUX = (0.002, 0.05)
"""Relative standard deviation of the photons of a frame."""

BACKGROUND = (1e-4, 0.03)
"""Share of a frame's photons that lies evenly on the detector."""


@dataclass(frozen=True)
class ScanErrors(Rows):
    """True less known conditions of N scans.

    Args:
        position: (N, J, 2) px, 0 in the mean: where a scan lies as a whole is nobody's error.
        probe: (N, P, H, W) photons^(1/2).
        flux: (N, J) photons over those that the probe has.
        background: (N,) photons a pixel.
    """

    position: Tensor
    probe: Tensor
    flux: Tensor
    background: Tensor


def random_errors(conditions: Conditions, generator: Generator) -> ScanErrors:
    """Errors as scans have them; two thirds of the scans lack each kind, three quarters the background."""
    n, size = conditions.present.shape
    probe = conditions.probe

    def often(limits: tuple[float, float], share: float) -> Tensor:
        return log_uniform(generator, (n,), *limits) * chance(generator, (n,), share)

    position = often(POSITION_PX, 0.35)[:, None, None] * normal(generator, (n, size, 2))
    there = conditions.present[:, :, None]
    position = position - (position * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    width = log_uniform(generator, (n,), *PROBE_WIDTH_PX)
    real, imaginary = (smooth_fields(n, probe.shape[-1], width, generator) for _ in range(2))
    wrong = each(often(PROBE, 0.35) / 2**0.5) * torch.complex(real, imaginary)
    photons = wave_intensity(probe).mean((1, 2))
    return ScanErrors(
        position,
        wrong[:, None] * probe,
        1 + often(FLUX, 0.35)[:, None] * normal(generator, (n, size)),
        photons * often(BACKGROUND, 0.25),
    )
