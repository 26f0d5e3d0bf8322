"""Scale of draws that don't explain their frame: from how strong both are, not from where they cross.

Given a shape that is wrong, least squares has too small a scale, since what the shape lacks counts as noise
(regression dilution), and far too narrow an interval for it: it knows the error of the counts alone. The
other regression, of the shape on what was measured, has too large a one. With c the correlation of both about
zero the two are c and 1/c times the ratio of their root mean squares. That ratio is the middle; how far the
regressions are apart says how much the shape's being wrong may matter.

Letters: N draws, Q points.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EXPLAINED = 1.5
"""Reduced chi-squared up to which a draw explains its frame."""
OF_REGRESSIONS = 0.5
"""Standard deviation of the logarithm, in units of half of what lies between the regressions."""
LEAST_CORRELATION = 0.05


class Measured(NamedTuple):
    """What N draws are to explain: intensity and sigma (N, Q), and bool (N, Q), which points count."""

    intensity: Tensor
    sigma: Tensor
    usable: Tensor


def loosened(
    shape: Tensor, scale: Tensor, background: Tensor, measured: Measured, noise: Tensor | None
) -> Tensor:
    """(N,) scales: those given, but for draws that don't explain what was measured.

    Args:
        shape: (N, Q) P(q).
        scale: (N,) drawn given the shape.
        background: (N,) the same, in units of the intensity.
        measured: of each draw.
        noise: (N,) standard normal; None for the middle.
    """
    y, sigma, usable = (part.double() for part in measured)
    p, over = shape.double(), y - background[:, None]
    pull = (over - scale[:, None] * p) / sigma.clamp_min(1e-30)
    chi2 = (usable * pull.square()).sum(1) / usable.sum(1).clamp_min(1)
    strong, square = (usable * over.square()).sum(1), (usable * p.square()).sum(1)
    common = (usable * over * p).sum(1)
    middle = (strong / square.clamp_min(1e-300)).sqrt()
    correlation = common / (strong * square).clamp_min(1e-300).sqrt()
    apart = OF_REGRESSIONS * correlation.clamp(LEAST_CORRELATION, 1.0).log()
    counted = (usable * (over * sigma).square()).sum(1) / strong.square().clamp_min(1e-300)
    spread = (apart.square() + counted).sqrt()
    drawn = middle if noise is None else middle * (spread * noise.to(spread)).exp()
    loose = (chi2 > EXPLAINED) & (middle > 0) & torch.isfinite(drawn)
    return torch.where(loose, drawn, scale.double()).to(scale)
