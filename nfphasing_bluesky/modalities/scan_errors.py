"""What is not known of a simulated scan: errors of positions and probe, a beam that flickers, background.

Measured scans have them, and a model that never saw any is too sure of itself. Letters: N patches, J frames
of each, P probe modes, H, W frame.
"""

from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.modalities.patterns import Conditions
from nfphasing_bluesky.physics.objects.draws import chance, each, log_uniform, normal
from nfphasing_bluesky.physics.probes import smooth_fields
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
class ScanErrors:
    """True less known conditions of N patches.

    Args:
        position: (N, J, 2) px; 0 for the own one.
        probe: (N, P, H, W) photons^(1/2).
        flux: (N, J) photons over those that the probe has.
        background: (N,) photons a pixel.
    """

    position: Tensor
    probe: Tensor
    flux: Tensor
    background: Tensor

    def at(self, index: Tensor) -> "ScanErrors":
        """Return those of some patches."""
        return ScanErrors(*(getattr(self, f.name)[index] for f in fields(self)))


def random_errors(conditions: Conditions, generator: Generator) -> ScanErrors:
    """Errors as scans have them; each kind is absent in half of the scans, the background in two thirds."""
    n, size = conditions.present.shape
    probe = conditions.probe

    def often(limits: tuple[float, float], share: float) -> Tensor:
        return log_uniform(generator, (n,), *limits) * chance(generator, (n,), share)

    position = often(POSITION_PX, 0.5)[:, None, None] * normal(generator, (n, size, 2))
    position[:, 0] = 0.0
    width = log_uniform(generator, (n,), *PROBE_WIDTH_PX)
    real, imaginary = (smooth_fields(n, probe.shape[-1], width, generator) for _ in range(2))
    wrong = each(often(PROBE, 0.5) / 2**0.5) * torch.complex(real, imaginary)
    photons = wave_intensity(probe).mean((1, 2))
    return ScanErrors(
        position,
        wrong[:, None] * probe,
        1 + often(FLUX, 0.5)[:, None] * normal(generator, (n, size)),
        photons * often(BACKGROUND, 0.35),
    )
