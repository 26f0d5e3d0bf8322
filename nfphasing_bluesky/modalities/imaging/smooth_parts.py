"""Smooth parts of objects larger than what was learnt from, whose error bars are too small.

A weak object shows a frequency f of its phase by 2 |sin(chi) + (beta / delta) cos(chi)|, chi = pi f^2 / Fr:
little of what varies slowly, if it does not absorb. Within a frame as large as those learnt from, the prior
knows how strong that may be. Of longer waves it knows nothing, and tiles that are blended say of each of
these what little they see, as if it were all: docs/explanation.md has how often intervals hold then.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import HologramGeometry

LEARNT_PX = 128
"""Sides of frames that tiles were learnt from."""

LITTLE, NOTHING = 0.1, 0.0125
"""Contrasts of a wave over its phase."""

MOST_SHARE = 0.3
"""Of the variance of a phase in longer waves that show little."""


def hardly_shown(phase: NDArray[np.floating], geometry: HologramGeometry, ratio: float) -> str:
    """Say what of a phase may be off by more than its error bars; empty where that is little.

    Args:
        phase: (H, W) found, any unit.
        geometry: of the hologram.
        ratio: beta / delta that was taken to be known; 0 where absorption is free.
    """
    side = max(phase.shape)
    if side <= LEARNT_PX:
        return ""
    rows, columns = (np.fft.fftfreq(n) for n in phase.shape)
    frequency = np.hypot(rows[:, None], columns)
    contrast = _contrast(frequency, geometry.fresnel_number, ratio)
    power = np.abs(np.fft.fft2(phase - phase.mean())) ** 2
    faint = (frequency > 0) & (frequency * LEARNT_PX < 1) & (contrast < LITTLE)
    share = power[faint].sum() / max(power.sum(), 1e-300)
    longest = float(_contrast(np.array(1 / side), geometry.fresnel_number, ratio))
    if share > MOST_SHARE:
        found = f"{100 * share:.0f} % of the variance of the phase is in waves longer than {LEARNT_PX} pixels"
        found += f", of which the hologram shows less than {100 * LITTLE:.0f} %"
    elif longest < NOTHING:
        found = f"of a wave as long as the frame ({side} pixels) the hologram shows {100 * longest:.2g} %"
    else:
        return ""
    return (
        f"{found}: smooth parts may be off by more than the error bars say; trust edges, measure from "
        "farther away, or bin the frame"
    )


def _contrast(frequency: NDArray[np.floating], number: float, ratio: float) -> NDArray[np.floating]:
    chi = math.pi * frequency**2 / number
    return 2 * np.abs(np.sin(chi) + ratio * np.cos(chi))
