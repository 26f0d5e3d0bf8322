"""Scale and flat background of coherent patterns: integrated out, and drawn, exactly for each draw of u.

A frame that says its scale is absolute and has no background; that of another is linear in both (`linear`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.coherent.coherent_frames import CoherentBatch
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.linear import BackgroundPrior, ScaleBackground, condition_draws


@dataclass(frozen=True)
class Levels:
    """Scale and background of N draws.

    Args:
        log_likelihood: (N,) float64, of the draws' shapes, scale and background integrated out.
        scale: (N,) float64, that of frames which say it; 1 elsewhere.
        free: (M,) rows of the draws whose scale is not known.
        conditional: of scale and background of those; None where M is 0.
    """

    log_likelihood: Tensor
    scale: Tensor
    free: Tensor
    conditional: ScaleBackground | None

    def draw(self, noise: Tensor | None) -> dict[str, Tensor]:
        """(N,) scale and beta, background over scale, from (N, 2) standard normals; the centres without."""
        scale, beta = self.scale, torch.zeros_like(self.scale)
        if self.conditional is not None:
            own = self.conditional.draw(None if noise is None else noise[self.free])
            scale, beta = (
                whole.index_copy(0, self.free, part) for whole, part in zip((scale, beta), own, strict=True)
            )
        return {"scale": scale, "beta": beta}


def levels(shape: Tensor, draws: Draws, batch: CoherentBatch, prior: BackgroundPrior) -> Levels:
    """Condition scale and background of draws on their frames; differentiable in the shape.

    Args:
        shape: (N, H, W) |FFT u|^2 of each draw.
        draws: whose frames count.
        batch: of the frames.
        prior: of beta.
    """
    known = batch.scale_known[draws.frame]
    free, fixed = (~known).nonzero()[:, 0], known.nonzero()[:, 0]
    scale = torch.where(known, batch.scale[draws.frame], 1.0)
    log_likelihood = torch.zeros_like(scale)
    if fixed.numel():
        frame = draws.frame[fixed]
        off = batch.intensity[frame] - scale[fixed, None, None] * shape[fixed]
        own = -0.5 * (off * batch.weight[frame].sqrt()).square().flatten(1).sum(1)
        log_likelihood = log_likelihood.index_copy(0, fixed, own)
    if not free.numel():
        return Levels(log_likelihood, scale, free, None)
    conditional = condition_draws(shape[free].flatten(1), draws.at(free), batch.flat(), prior)
    log_likelihood = log_likelihood.index_copy(0, free, conditional.log_evidence)
    return Levels(log_likelihood, scale, free, conditional)
