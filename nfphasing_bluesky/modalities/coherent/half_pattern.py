"""One coherent pattern as fits see it: residuals, slopes and curvature over the object, scale and background.

Coordinates are z, in which the object's prior is the standard normal, and where the frame does not say its
scale two more behind them: I = s (|FFT u|^2 + beta) with log s = log s_0 + SPREAD v and beta = m + d c, where
s_0 is the frame's nominal scale and m, d are moments of beta's prior. v and c count as standard normals: for
v that is a prior so broad that it says next to nothing.

Letters: D pixels of the object, E = 0 or 2, P pixels of half the pattern, M points.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.coherent.coherent_frames import CoherentBatch
from nfphasing_bluesky.modalities.coherent.compact_prior import CompactPrior
from nfphasing_bluesky.physics.coherent import far_field_matrix, friedel_mates, pattern_shape

SPREAD = 3.0
"""Standard deviation of the logarithm of the scale about the nominal one."""
EXTRA, SCALE = 2, -2


@dataclass(frozen=True, eq=False)
class Pattern:
    """Half of a pattern, |q| alone: mates are averaged with their weights.

    Args:
        prior: of the object.
        cosine, sine: (P, D) amplitudes per density.
        intensity: (P,) over the nominal scale.
        root_weight: (P,) 1/sigma, of the same; 0 where nothing was measured.
        background: mean and standard deviation of beta; None where scale and background are known, beta 0.
        held: whether fits leave the scale where it is; its coordinate then counts as known to one, by itself.
    """

    prior: CompactPrior
    cosine: Tensor
    sine: Tensor
    intensity: Tensor
    root_weight: Tensor
    background: tuple[float, float] | None
    held: bool = False

    @property
    def pixels(self) -> int:
        """D."""
        return self.cosine.shape[1]

    @property
    def width(self) -> int:
        """D + E."""
        return self.pixels + (0 if self.background is None else EXTRA)

    def starts(self, z: Tensor) -> Tensor:
        """(M, D + E) of objects (M, D), with the scale of least squares and the mean background."""
        if self.background is None:
            return z
        u = self.prior.density(z)
        shape = (u @ self.cosine.mT).square() + (u @ self.sine.mT).square() + self.background[0]
        weight = self.root_weight.square()
        scale = (shape @ (weight * self.intensity)) / (shape.square() @ weight).clamp_min(1e-300)
        v = scale.clamp_min(1e-3).log() / SPREAD
        return torch.cat([z, v[:, None], torch.zeros_like(v)[:, None]], 1)

    def _linear(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(M, 1) scale over the nominal one, and beta."""
        if self.background is None:
            one = torch.ones_like(z[:, :1])
            return one, 0 * one
        mean, deviation = self.background
        return (SPREAD * z[:, SCALE, None]).exp(), mean + deviation * z[:, -1:]

    def residuals(self, z: Tensor) -> Tensor:
        """(M, P) of (M, D + E)."""
        u = self.prior.density(z[:, : self.pixels])
        scale, beta = self._linear(z)
        found = (u @ self.cosine.mT).square() + (u @ self.sine.mT).square()
        return (scale * (found + beta) - self.intensity) * self.root_weight

    def log_posterior(self, z: Tensor) -> Tensor:
        """(M,) of (M, D + E), up to a constant."""
        return -0.5 * (self.residuals(z).square().sum(1) + z.square().sum(1))

    def normal_equations(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D + E, D + E) Gauss-Newton curvature and (M, D + E) gradient of minus the log posterior."""
        own = z[:, : self.pixels]
        u = self.prior.density(own)
        scale, beta = self._linear(z)
        real, imaginary = u @ self.cosine.mT, u @ self.sine.mT
        expected = scale * (real.square() + imaginary.square() + beta)
        residual = (expected - self.intensity) * self.root_weight
        by_u = 2 * (real[..., None] * self.cosine + imaginary[..., None] * self.sine)
        slopes = self.prior.slopes(own, by_u * (scale * self.root_weight)[..., None])
        if self.background is not None:
            by_scale = (0.0 if self.held else SPREAD) * expected * self.root_weight
            by_beta = self.background[1] * scale * self.root_weight
            slopes = torch.cat([slopes, by_scale[..., None], by_beta[..., None]], 2)
        unit = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        gradient = (slopes.mT @ residual[..., None])[..., 0] + z
        if self.held:
            gradient[:, SCALE] = 0
        return slopes.mT @ slopes + unit, gradient

    def factors(self, z: Tensor) -> Tensor:
        """(M, D + E, D + E) Cholesky factors of the inverse curvature at (M, D + E)."""
        inverse = torch.linalg.inv(torch.linalg.cholesky(self.normal_equations(z)[0]))
        return torch.linalg.cholesky(inverse.mT @ inverse)

    def twins(self, z: Tensor) -> Tensor:
        """(..., D + E) inversion twins; the prior's root is the same after inversion."""
        return torch.cat([z[..., : self.pixels].flip(-1), z[..., self.pixels :]], -1)

    def relatives(self, z: Tensor) -> Tensor:
        """(K', D + E) near (K, D + E) solutions one pixel away along each axis."""
        u = self.prior.density(z[:, : self.pixels]).unflatten(1, self.prior.shape)
        moved = []
        for axis, pixels in enumerate(self.prior.shape, start=1):
            for way in (-1, 1) if pixels > 1 else ():
                shifted = u.roll(way, axis)
                shifted.select(axis, 0 if way > 0 else -1).zero_()
                nearest = self.prior.nearest(shifted.flatten(1))
                moved.append(torch.cat([nearest, z[:, self.pixels :]], 1))
        return torch.cat(moved)


def half_pattern(
    batch: CoherentBatch, index: int, prior: CompactPrior, background: tuple[float, float]
) -> Pattern:
    """Take one frame of a batch for the fits, float64.

    Args:
        batch: of the frame.
        index: in the batch.
        prior: of the object.
        background: mean and standard deviation of beta, for frames that don't say their scale.
    """
    mates = friedel_mates(pattern_shape(prior.shape)).to(batch.intensity.device)
    weight = batch.weight[index].flatten()
    value = batch.intensity[index].double().flatten() * weight
    own = torch.arange(len(mates), device=mates.device)
    alone = (mates == own).double()
    both, total = weight + (1 - alone) * weight[mates], value + (1 - alone) * value[mates]
    kept = ((own <= mates) & (both > 0)).nonzero()[:, 0]
    scale = batch.scale[index]
    cosine, sine = far_field_matrix(prior.shape, kept, torch.float64)
    intensity = total[kept] / both[kept] / scale
    free = None if bool(batch.scale_known[index]) else background
    return Pattern(prior, cosine, sine, intensity, both[kept].sqrt() * scale, free)
