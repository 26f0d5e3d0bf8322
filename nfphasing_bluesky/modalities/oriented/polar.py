"""Patterns in polar bins: pixels become bins, and the model is evaluated at them as if at the pixels.

I(q) = I(-q), so half a turn holds everything. Pixels are summed into 48 rings of |q| / q_top and 192 fine
sectors, the sectors are turned to the pattern's own axis in whole fine sectors, and groups of four become the
48 that are kept. A bin knows where its pixels lie: the mean weights of the three moduli of its ring from
which the model is interpolated, and mean and variance of their azimuth. So a bin with a few pixels in a
corner of it is compared with the model there, and a full one with the model's mean over it.

Letters: B frames, P pixels, R rings, F fine sectors, A sectors (azimuths), K even harmonics, N patterns.
"""

from dataclasses import dataclass, fields
from math import pi, sqrt

import torch
from torch import Tensor

RINGS, SECTORS, SPLIT = 48, 48, 4
FINE = SECTORS * SPLIT
NODES = (0.5 - sqrt(3) / 4, 0.5, 0.5 + sqrt(3) / 4)
"""Places within a ring where the model is computed: the Chebyshev points, in ring widths."""

"""Counts of a bin beyond which its own number says more of its variance than its neighbours'."""


@dataclass(frozen=True)
class Sectors:
    """Sums over the pixels of bins, fine or not.

    Args:
        pixels: (B, R, F) number.
        first, second: (B, R, F) sums of the azimuth's offset from the sector's centre and of its square, rad.
        radial: (B, R, F, 3) sums of the weights of the ring's moduli.
    """

    pixels: Tensor
    first: Tensor
    second: Tensor
    radial: Tensor

    @property
    def step(self) -> float:
        """Width of a sector, rad."""
        return pi / self.pixels.shape[2]

    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean azimuth and its variance (B, R, F), and mean radial weights (B, R, F, 3)."""
        n = self.pixels.clamp_min(1.0)
        centre = (torch.arange(self.pixels.shape[2], dtype=n.dtype, device=n.device) + 0.5) * self.step
        mean = self.first / n
        variance = (self.second / n - mean.square()).clamp_min(0.0)
        return centre + mean, variance, self.radial / n[..., None]

    def turned(self, steps: Tensor) -> "Sectors":
        """The same with azimuths counted from `steps` (B,) sectors on."""
        return Sectors(*(turned(getattr(self, f.name), steps) for f in fields(self)))

    def joined(self) -> "Sectors":
        """Groups of `SPLIT` sectors as one."""
        place = (torch.arange(SPLIT, dtype=self.first.dtype, device=self.first.device) + 0.5) / SPLIT - 0.5
        shift = place * (self.step * SPLIT)
        n, first, second = (joined_parts(v) for v in (self.pixels, self.first, self.second))
        return Sectors(
            n.sum(3),
            (first + n * shift).sum(3),
            (second + 2 * first * shift + n * shift.square()).sum(3),
            joined_parts(self.radial).sum(3),
        )


def turned(values: Tensor, steps: Tensor) -> Tensor:
    """(B, R, F, ...) with sector 0 where `steps` (B,) was."""
    count = values.shape[2]
    index = (torch.arange(count, device=steps.device) + steps[:, None]) % count
    rows = torch.arange(len(values), device=steps.device)[:, None]
    return values.transpose(1, 2)[rows, index].transpose(1, 2)


def joined_parts(values: Tensor) -> Tensor:
    """(B, R, F, ...) as (B, R, A, SPLIT, ...)."""
    return values.unflatten(2, (-1, SPLIT))


def neighbouring(values: Tensor) -> Tensor:
    """(B, R, F) sums over as many fine sectors around each as are joined, the outermost two counted half."""
    weights = values.new_tensor([0.5, *[1.0] * (SPLIT - 1), 0.5])[None, None]
    padded = torch.cat([values[:, :, -SPLIT // 2 :], values, values[:, :, : SPLIT // 2]], 2)
    return torch.nn.functional.conv1d(padded.flatten(0, 1)[:, None], weights)[:, 0].view_as(values)


def bin_index(qx: Tensor, qy: Tensor, used: Tensor, q_top: Tensor) -> Tensor:
    """(B, P) index of each pixel's fine bin in the flat (B, R, F), one past the end for pixels not used."""
    rho = torch.hypot(qx, qy) / q_top[:, None]
    ring = (rho * RINGS).floor().long()
    ring = torch.where(rho == 1.0, RINGS - 1, ring)
    sector = (torch.atan2(qy, qx).remainder(pi) * (FINE / pi)).floor().long().clamp_max(FINE - 1)
    frame = torch.arange(len(qx), device=qx.device)[:, None]
    flat = (frame * RINGS + ring) * FINE + sector
    return torch.where(used & (ring < RINGS), flat, len(qx) * RINGS * FINE)


def summed(index: Tensor, values: Tensor | None, frames: int) -> Tensor:
    """(B, R, F) float64 sums of values (B, P) over the bins; the numbers of pixels for None."""
    size = frames * RINGS * FINE
    weights = None if values is None else values.double().flatten()
    total = torch.bincount(index.flatten(), weights, minlength=size + 1)[:size]
    return total.double().view(frames, RINGS, FINE)


def radial_weights(t: Tensor) -> Tensor:
    """(..., 3) weights of a ring's moduli at t (...) ring widths from its beginning."""
    a, b, c = NODES
    weights = [(t - x) * (t - y) / ((z - x) * (z - y)) for z, x, y in ((a, b, c), (b, a, c), (c, a, b))]
    return torch.stack(weights, -1)


def sectors(index: Tensor, qx: Tensor, qy: Tensor, q_top: Tensor) -> Sectors:
    """What bins know of their pixels, whose true place is (qx, qy) (B, P)."""
    frames = len(qx)
    local = (index // FINE) % RINGS
    radial = radial_weights(torch.hypot(qx, qy) / q_top[:, None] * RINGS - local).unbind(-1)
    step = pi / FINE
    offset = torch.atan2(qy, qx) - ((index % FINE) + 0.5) * step
    offset = (offset + pi / 2).remainder(pi) - pi / 2
    return Sectors(
        summed(index, None, frames),
        summed(index, offset, frames),
        summed(index, offset.square(), frames),
        torch.stack([summed(index, r, frames) for r in radial], 3),
    )


def moduli(device: torch.device | str = "cpu") -> Tensor:
    """(3 R,) q over q_top at which the model is computed."""
    nodes = torch.tensor(NODES, dtype=torch.float64, device=device)
    return ((torch.arange(RINGS, dtype=torch.float64, device=device)[:, None] + nodes) / RINGS).flatten()


def waves(azimuth: Tensor, variance: Tensor, count: int) -> Tensor:
    """(B, R, 2 K, A) cosines, then sines, of even multiples of the azimuths (B, R, A), averaged over bins."""
    even = 2 * torch.arange(count, dtype=azimuth.dtype, device=azimuth.device)[:, None]
    phase, blur = even * azimuth[:, :, None], torch.exp(-0.5 * even.square() * variance[:, :, None])
    frames, rings, _, places = phase.shape
    out = phase.new_empty(frames, rings, 2 * count, places)
    torch.mul(phase.cos(), blur, out=out[:, :, :count])
    torch.mul(phase.sin(), blur, out=out[:, :, count:])
    return out


def synthesised(harmonics: Tensor, phi: Tensor, waves: Tensor, radial: Tensor) -> Tensor:
    """(N, R, A) patterns at the bins, those of one frame together, N a multiple of B.

    Args:
        harmonics: (N, 3 R, K) coefficients of cos(2 k (azimuth - phi)) at `moduli`.
        phi: (N,) rad.
        waves: (B, R, 2 K, A).
        radial: (B, R, A, 3).
    """
    frames, rings, _, count = waves.shape
    each = len(phi) // frames
    even = 2 * torch.arange(harmonics.shape[2], dtype=harmonics.dtype, device=phi.device)
    turn = (phi.to(harmonics)[:, None] * even)[:, None]
    both = torch.cat([harmonics * turn.cos(), harmonics * turn.sin()], 2)
    both = both.view(frames, each, rings, 3, -1).transpose(1, 2).flatten(2, 3)
    values = (both @ waves).view(frames, rings, each, 3, count)
    at_bins = (values * radial.transpose(2, 3)[:, :, None]).sum(3)
    return at_bins.transpose(1, 2).reshape(len(phi), rings, count)


def principal_axis(pixels: Tensor, mean: Tensor, azimuth: Tensor) -> Tensor:
    """(B,) azimuth, rad, 45 degrees before the direction in which the pattern is extended.

    Rods and discs then lie at -45 and 45 degrees from it, far from where angles wrap. Each ring gives mean
    and second harmonic by least squares over the sectors it has; a mirror axis is common to all rings,
    whatever the signs of their harmonics, so their squares give the line, and their sum which of its two
    directions.

    Args:
        pixels: (B, R, F) number, 0 where there are none.
        mean: (B, R, F) intensity per pixel.
        azimuth: (B, R, F) of the pixels, rad.
    """
    level = (pixels * mean).sum(2, keepdim=True) / pixels.sum(2, keepdim=True).clamp_min(1.0)
    level = torch.where(level > 0, level, torch.inf)
    basis = torch.stack([torch.ones_like(azimuth), (2 * azimuth).cos(), (2 * azimuth).sin()], 3)
    weighted = basis * (pixels / level)[..., None]
    gram = basis.mT @ weighted + 1e-9 * torch.eye(3, dtype=basis.dtype, device=basis.device)
    inverse = torch.linalg.inv_ex(gram).inverse
    found = (inverse @ (weighted.mT @ mean[..., None]))[..., 1:, 0]
    # in units of its standard deviation, were the intensities counts
    scaled = found / (inverse[..., 1, 1] + inverse[..., 2, 2]).clamp_min(1e-30).sqrt()[..., None]
    z = torch.complex(scaled[..., 0], scaled[..., 1]).nan_to_num(0.0)
    line = 0.25 * z.square().sum(1).angle()
    along = (z.sum(1) * torch.polar(torch.ones_like(line), -2 * line)).real > 0
    return torch.where(along, line, line + pi / 2) - pi / 4


def whole_steps(axis: Tensor) -> Tensor:
    """(B,) int64, the axis in fine sectors, 0..F-1."""
    return (axis * (FINE / pi)).round().long() % FINE
