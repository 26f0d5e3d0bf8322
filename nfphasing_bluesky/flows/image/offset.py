"""The error that a whole frame shares, by what its features say of it.

How well the mean of an image is known differs from frame to frame: a tile of a large pure-phase object hardly
has any light that tells it, a small object with absorption has plenty. Convolutional couplings see a few
pixels and can't say so; `Whitening` knows one scale for all frames. Here the mean of a level's noise gets a
location and a scale from the features, and tails from a spline.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nfphasing_bluesky.flows.image.networks import repeat_draws, start_at_zero
from nfphasing_bluesky.flows.spline import knots, spline_forward, spline_inverse
from nfphasing_bluesky.flows.transforms import full_precision, soft_clamp

MOST_LOG_SCALE = 3.0
BINS, BOUND = 8, 5.0
STEPS, BATCH, DECAY = 300, 256, 0.3
RATE, SPLINE_RATE = 1e-2, 3e-2
"""Of its fit, in steps of AdamW."""


class Offset(nn.Module):
    """Map of the mean of each channel of noise (N, n, h, w), given an embedding (B, E).

    m = sqrt(h w) times the mean; m' = spline((m - mu) exp(-s)), mu and s linear in the embedding; the rest of
    the noise stays. The identity until it was trained or fitted.

    Args:
        coefficients: n.
        embedding: E.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, coefficients: int, embedding: int) -> None:
        super().__init__()
        self.head = nn.Linear(embedding, 2 * coefficients)
        self.spline = nn.Parameter(torch.zeros(coefficients, 3 * BINS - 1))
        self.register_buffer("centre", torch.zeros(embedding))
        self.register_buffer("spread", torch.ones(embedding))
        start_at_zero(self.head)

    def forward(self, z: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of true images to white noise, and log|det| (N,)."""

        def change(mean: Tensor, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
            bent, log_slope = spline_forward((mean - location) * (-log_scale).exp(), self._knots(), BOUND)
            return bent, log_slope - log_scale

        return self._changed(z, embedding, change)

    def inverse(self, z: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """White noise to the noise of true images, and log|det| (N,)."""

        def change(mean: Tensor, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
            straight, log_slope = spline_inverse(mean, self._knots(), BOUND)
            return straight * log_scale.exp() + location, log_slope + log_scale

        return self._changed(z, embedding, change)

    def _knots(self) -> Tensor:
        return knots(self.spline, BINS, BOUND)

    def _changed(
        self,
        z: Tensor,
        embedding: Tensor,
        change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        with full_precision(z):
            known = (embedding.to(self.centre) - self.centre) / self.spread
            predicted = repeat_draws(self.head(known), z).to(z)
            location, raw = predicted.chunk(2, dim=1)
            size = math.sqrt(z.shape[-2] * z.shape[-1])
            mean = z.mean(dim=(-2, -1)) * size
            moved, log_det = change(mean, location, soft_clamp(raw, -MOST_LOG_SCALE, MOST_LOG_SCALE))
        return z + ((moved - mean) / size)[..., None, None], log_det.sum(dim=1)

    @torch.enable_grad()
    def fit(self, z: Tensor, embedding: Tensor, seed: int = 0) -> None:
        """Fit to whitened noise z (N, n, h, w) of N true images and their embeddings (N, E), from anew."""
        generator = torch.Generator().manual_seed(seed)
        self.centre.copy_(embedding.mean(0))
        self.spread.copy_(embedding.std(0).clamp_min(1e-6))
        start_at_zero(self.head)
        nn.init.zeros_(self.spline)
        groups = [
            {"params": list(self.head.parameters()), "lr": RATE, "weight_decay": DECAY},
            {"params": [self.spline], "lr": SPLINE_RATE, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(0, len(z), (BATCH,), generator=generator).to(z.device)
            white, log_det = self(z[rows], embedding[rows])
            # only the mean moves, so half of its square is all of the norm that changes
            loss = (0.5 * white.square().sum(dim=(1, 2, 3)) - log_det).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        optimiser.zero_grad(set_to_none=True)
