r"""Objects that explain frames and are as smooth as objects are: Gauss-Newton steps under a Gaussian prior.

Letters: B objects, Y, X pixels. An object is exp(i phase - mu). Phase and mu have Gaussian priors of
variances s^2 and with the power spectrum

    S(f) ~ 1 / (f0^2 + f^2)^(p / 2) + white,

f in cycles per pixel, which is what the random objects of `physics.objects` have in the mean. In coordinates
z with phase = s S^(1/2) z the prior is the unit normal, and the square roots of counts, of variance 1/4, are
close to linear: each round linearises them and takes a few steps of conjugate gradients towards

    (1 + J^T J) dz = J^T r - z,   r = 2 (sqrt(N + e) - sqrt(I + e))

(Nocedal and Wright, Numerical Optimization, 2006, ch. 10). Low frequencies, of which a near field says little
and projections find little, come first, because the prior holds most of them. The steps are preconditioned by
the root of what the curvature would be under even light, half way to where all frequencies are equal: with
nothing sharp details come late, with all of it the lowest frequencies do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.physics.imaging.overlap import GroupFrames
from nfphasing_bluesky.physics.ptychography import real_inner

KNEE_PER_PX = 0.01
POWER = 2.4
WHITE = 1e-3
SOFTENED = 0.25
"""e: photons that are added before the root is taken, so that empty pixels have a slope."""

LEAST_CONTRAST = 0.005
"""Share in the contrast of what has none: objects are not weak."""

LEAST_SPREAD, MOST_SPREAD = (0.05, 0.01), 1.5


@dataclass(frozen=True)
class SmoothPrior:
    """Prior of phase and mu.

    Args:
        spread: (B, 2) standard deviations of phase, rad, and of mu.
        root: (Y, X) square root of the spectrum, of mean square 1.
    """

    spread: Tensor
    root: Tensor

    @classmethod
    def like(cls, canvas: Tensor, spread: Tensor) -> "SmoothPrior":
        """For objects (B, Y, X), with spreads (B, 2)."""
        power = (_frequency_squared(canvas) + KNEE_PER_PX**2) ** (-POWER / 2)
        power = (power / power.mean() + WHITE) / (1 + WHITE)
        return cls(spread, power.sqrt())

    def coloured(self, z: Tensor) -> Tensor:
        """(B, 2, Y, X) phase and mu of z; its own adjoint."""
        return _filtered(z, self.root) * self.spread[:, :, None, None]

    def white(self, theta: Tensor) -> Tensor:
        """Inverse of `coloured`."""
        return _filtered(theta / self.spread[:, :, None, None], 1 / self.root)


def _filtered(pair: Tensor, transfer: Tensor) -> Tensor:
    """(B, 2, Y, X) pairs of images, each filtered by a real, even transfer function in one transform."""
    spectrum = torch.fft.fft2(torch.complex(pair[:, 0], pair[:, 1]))
    return torch.view_as_real(torch.fft.ifft2(spectrum * transfer)).movedim(-1, 1).contiguous()


def refine(
    frames: GroupFrames, canvas: Tensor, prior: SmoothPrior, *, rounds: int, steps: int
) -> tuple[Tensor, ...]:
    """Move objects (B, Y, X), whose phase is about 0 in the mean, to the maximum of their posterior.

    Returns:
        The objects after each round.
    """
    theta = torch.stack([canvas.angle(), -canvas.abs().clamp_min(1e-3).log()], 1)
    z, transfer = prior.white(theta), evened(frames, canvas, prior)

    def even(z: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(z) * transfer).real

    found = []
    for _ in range(rounds):
        local = linearised(frames, prior, z)
        z = z + conjugate_gradients(local.normal, local.gradient - z, steps, even)
        found.append(_object(prior.coloured(z)))
    return tuple(found)


def evened(frames: GroupFrames, canvas: Tensor, prior: SmoothPrior) -> Tensor:
    """(B, 2, Y, X) transfer functions of the preconditioner, in the coordinates z.

    One over the root of 1 + w C s^2 S: w the curvature that a pixel has in the light, C the share of phase or
    absorption in the contrast.
    """
    seen = frames.seen()
    light = 4 * seen.square().sum((1, 2)) / seen.sum((1, 2)).clamp_min(1e-12)
    share = frames.contrast(_frequency_squared(canvas)).clamp_min(LEAST_CONTRAST)
    prior_power = (prior.spread[:, :, None, None] * prior.root).square()
    return (1 + light[:, None, None, None] * share * prior_power).rsqrt()


def _frequency_squared(canvas: Tensor) -> Tensor:
    """(Y, X) of a canvas (B, Y, X), in cycles per pixel."""
    row, column = (torch.fft.fftfreq(n, device=canvas.device) for n in canvas.shape[-2:])
    return row[:, None] ** 2 + column**2


def _object(theta: Tensor) -> Tensor:
    return torch.polar(torch.exp(-theta[:, 1].clamp(-1.0, 5.0)), theta[:, 0])


def linearised(frames: GroupFrames, prior: SmoothPrior, z: Tensor) -> "Linearised":
    """Square roots of counts, of unit variance, around z (B, 2, Y, X)."""
    canvas = _object(prior.coloured(z))
    slopes, change = [], torch.zeros_like(canvas)
    for j in range(frames.count):
        wave = frames.waves(canvas, j)
        root = (frames.photons(wave) + SOFTENED).sqrt()
        short = 2 * ((frames.counts[:, j] + SOFTENED).sqrt() - root)
        slope = _times(wave, (2 * frames.used[:, j] / root)[:, None])
        slopes.append(slope)
        frames.add(change, frames.heard(_times(slope, short[:, None]), j), j)
    return Linearised(frames, prior, canvas, slopes, change)


class Linearised:
    """J of the roots of all counts with respect to z, at objects (B, Y, X).

    Args:
        frames, prior: of the objects.
        canvas: the objects.
        slopes: of each of the J frames, (B, P, H, W), of the roots with respect to the waves.
        change: (B, Y, X) what the residuals wish to change.
    """

    def __init__(
        self,
        frames: GroupFrames,
        prior: SmoothPrior,
        canvas: Tensor,
        slopes: Sequence[Tensor],
        change: Tensor,
    ) -> None:
        self._frames, self._prior, self._canvas, self._slopes = frames, prior, canvas, slopes
        self.gradient = self._to_z(change)
        """J^T r, (B, 2, Y, X)."""

    def _to_z(self, change: Tensor) -> Tensor:
        turned = self._canvas.conj() * change
        return self._prior.coloured(torch.stack([turned.imag, -turned.real], 1))

    def normal(self, z: Tensor) -> Tensor:
        """(1 + J^T J) z."""
        theta = self._prior.coloured(z)
        moved = self._canvas * torch.complex(-theta[:, 1], theta[:, 0])
        change = torch.zeros_like(moved)
        for j, slope in enumerate(self._slopes):
            wave = self._frames.waves(moved, j)
            along = real_inner(slope, wave)[:, None]
            self._frames.add(change, self._frames.heard(_times(slope, along), j), j)
        return z + self._to_z(change)


def _times(wave: Tensor, factor: Tensor) -> Tensor:
    """Complex by real, without making the real one complex."""
    return torch.view_as_complex(torch.view_as_real(wave) * factor[..., None])


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    right: Tensor,
    steps: int,
    precondition: Callable[[Tensor], Tensor] = lambda z: z,
) -> Tensor:
    """A few steps towards the solutions of B systems with symmetric positive matrices, from 0.

    Args:
        matrix: product with it.
        right: (B, ...) right-hand sides.
        steps: to take.
        precondition: product with a symmetric positive matrix that is near the inverse.
    """
    found, left = torch.zeros_like(right), right
    direction = precondition(left)
    size = _inner(left, direction)
    for _ in range(steps):
        image = matrix(direction)
        length = size / _inner(direction, image).clamp_min(1e-20)
        found, left = found + length * direction, left - length * image
        wanted = precondition(left)
        smaller = _inner(left, wanted)
        direction, size = wanted + (smaller / size.clamp_min(1e-20)) * direction, smaller
    return found


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).flatten(1).sum(1).reshape(-1, *(1,) * (one.ndim - 1))
