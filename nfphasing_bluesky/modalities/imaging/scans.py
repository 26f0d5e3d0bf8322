"""Random scans to learn ptychography from: patches of objects, their neighbours, and what is measured."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.imaging.patterns import Conditions, expected, transmission
from nfphasing_bluesky.modalities.imaging.scan_context import FRAMES
from nfphasing_bluesky.modalities.imaging.scan_errors import ScanErrors, random_errors
from nfphasing_bluesky.modalities.imaging.tiles import tile_corners
from nfphasing_bluesky.physics.counting import beam_stop_disc, dead_pixels, module_gaps
from nfphasing_bluesky.physics.imaging.overlap import Group
from nfphasing_bluesky.physics.imaging.patches import cut
from nfphasing_bluesky.physics.imaging.probes import light_radius, random_probes, smooth_fields
from nfphasing_bluesky.physics.imaging.scan_estimate import gauge
from nfphasing_bluesky.physics.noise import poisson_counts
from nfphasing_bluesky.physics.objects import random_objects
from nfphasing_bluesky.physics.objects.draws import (
    angles,
    chance,
    each,
    integers,
    log_uniform,
    normal,
    uniform,
)
from nfphasing_bluesky.physics.ptychography import wave_intensity

PHOTONS = (1e4, 1e8)
"""Of a frame, with nothing in the beam."""

FRESNEL_NUMBER = (0.02, 0.3)
NEAR_SHARE = 0.45
PEAK_PHASE_RAD = (0.12, 2.6)
PEAK_ABSORPTION = (0.01, 1.0)
BETA_OVER_DELTA = (1e-3, 0.5)
GRAIN = 0.01
"""Standard deviation of white noise on both, over the peak of the phase: no sample is a picture."""

RESOLUTION_PX = (0.3, 1.2)
"""Standard deviation of the Gaussian that transmissions are blurred with."""

RESIDUAL_ABSORPTION, RESIDUAL_WIDTH_PX = (0.003, 0.08), (0.7, 8.0)
FARTHEST_PX = 48
MODES = 2
PATCHES = 6
"""Of a scan that are learnt from, at most."""


@dataclass(frozen=True)
class PatchDraws(Draws):
    """Parts of patches of larger objects, theta those of the part; several patches of one scan.

    Args:
        scan: (N,) index of the scan.
        rank: (N,) which of its frames saw the patch.
        patch: (N, 2, H, W) phase and absorption, the phase's origin as the light of the frame has it.
        corner: (N, 2) row and column of the part in the patch.
        canvas: (M, 2, Y, X) objects of the scans.
        conditions: of the M scans.
        errors: of what is known of them.
    """

    scan: Tensor
    rank: Tensor
    patch: Tensor
    corner: Tensor
    canvas: Tensor
    conditions: Conditions
    errors: ScanErrors

    def at(self, index: Tensor) -> "PatchDraws":
        """Return the draws that an index or a boolean mask picks, with all of their scans."""
        own = ("label", "theta", "frame", "scan", "rank", "patch", "corner")
        return replace(self, **{name: getattr(self, name)[index] for name in own})


def random_conditions(n: int, side: int, generator: Generator, frames: int = FRAMES) -> Conditions:
    """Of scans that may occur: probes, photons, steps, number of frames, near and far field, masks."""
    photons = log_uniform(generator, (n,), *PHOTONS)
    probe = random_probes(n, side, generator, MODES) * photons.sqrt()[:, None, None, None]
    near = chance(generator, (n,), NEAR_SHARE)
    number = log_uniform(generator, (n,), *FRESNEL_NUMBER).double()
    offset, fraction = _random_places(probe, frames - 1, generator)
    return Conditions(
        probe,
        offset,
        fraction,
        _present(n, frames, generator),
        _random_mask(n, (side, side), near, generator),
        torch.where(near, number, torch.nan),
    )


def patches_of(n: int, conditions: Conditions, generator: Generator) -> tuple[Tensor, Tensor]:
    """Which frames of random scans are learnt from, up to n.

    Returns:
        (N,) indices of scans, in order, and (N,) which of their frames: the first, and others at random.
    """
    device = conditions.present.device
    order = torch.rand(conditions.present.shape, generator=generator, device=device)
    order[:, 0] = -1.0
    order = torch.where(conditions.present, order, 2.0)
    rank = order.argsort(1)[:, :PATCHES]
    there = conditions.present.gather(1, rank)
    scan = torch.arange(len(rank), device=device)[:, None].expand_as(rank)
    return scan[there][:n], rank[there][:n]


def random_patches(
    n: int, tile: int, conditions: Conditions, generator: Generator, inner: float = 1.0
) -> PatchDraws:
    """Parts of up to n patches of random objects, the whole phase of each as `gauge` wants it.

    `inner` below 1 leaves out the strongest objects.
    """
    scan, rank = patches_of(n, conditions, generator)
    conditions = conditions.at(torch.arange(int(scan.max()) + 1, device=scan.device))
    shape, reach = (conditions.probe.shape[-2], conditions.probe.shape[-1]), _reach(conditions)
    size = (shape[0] + 2 * reach, shape[1] + 2 * reach)
    canvas = _random_objects(len(conditions.probe), size, generator, inner)
    patch = cut(canvas[scan], reach + conditions.offset[scan, rank], shape)
    patch[:, 0] -= each(gauge(transmission(patch), wave_intensity(conditions.probe[scan])))
    corner = tile_corners(len(scan), shape, tile, generator)
    theta = cut(patch, corner, (tile, tile)).flatten(1)
    frame = torch.arange(len(scan), device=scan.device)
    errors = random_errors(conditions, generator)
    label = torch.zeros_like(frame)
    return PatchDraws(label, theta, frame, scan, rank, patch, corner, canvas, conditions, errors)


def one_of_each(draws: PatchDraws, generator: Generator) -> PatchDraws:
    """Of each scan one of its patches at random."""
    key = torch.rand(len(draws.scan), generator=generator, device=draws.scan.device)
    largest = key.new_zeros(len(draws.canvas)).scatter_reduce(0, draws.scan, key, "amax")
    chosen = draws.at((key == largest[draws.scan]).nonzero()[:, 0])
    return replace(chosen, frame=torch.arange(len(chosen.scan), device=key.device))


def own_first(values: Tensor, rank: Tensor) -> Tensor:
    """Values (N, J, ...) with those of frames `rank` (N,) and of the first ones exchanged."""
    values, each_one = values.clone(), torch.arange(len(rank), device=rank.device)
    first = values[:, 0].clone()
    values[:, 0] = values[each_one, rank]
    values[each_one, rank] = first
    return values


def _reach(conditions: Conditions) -> int:
    return int(conditions.offset.abs().max())


def measure(draws: PatchDraws, generator: Generator) -> Group:
    """Count the frames of all scans."""
    how, wrong, shape = draws.conditions, draws.errors, (draws.patch.shape[-2], draws.patch.shape[-1])
    reach = _reach(how)
    probe = how.probe + wrong.probe
    counts = []
    for j in range(how.offset.shape[1]):
        wave = transmission(cut(draws.canvas, reach + how.offset[:, j], shape))
        place = how.fraction[:, j] + wrong.position[:, j]
        mean = expected(wave, probe, place, how.fresnel_number, centred=False)
        mean = each(wrong.flux[:, j]) * mean + each(wrong.background)
        counts.append(torch.where(how.mask, 0.0, poisson_counts(mean.clamp_min(0), generator)))
    frames = torch.stack(counts, 1)
    mask = how.mask[:, None].expand_as(frames)
    none = torch.zeros_like(frames[:, 0])
    return Group(frames, mask, how.probe, how.offset, how.fraction, how.present, none)


def _random_objects(n: int, shape: tuple[int, int], generator: Generator, inner: float) -> Tensor:
    """(n, 2, *shape) phase and absorption: one material, two, or absorption of its own; either sign."""
    maps = random_objects(n, shape, generator=generator).maps
    low, high = PEAK_PHASE_RAD
    peak = log_uniform(generator, (n,), low, inner * high)
    phase = -each(peak) * maps
    ratio = log_uniform(generator, (n,), *BETA_OVER_DELTA) * chance(generator, (n,), 0.7)
    mu = -each(ratio) * phase
    own = chance(generator, (n,), 0.5).nonzero()[:, 0]
    if len(own):
        other = random_objects(len(own), shape, generator=generator).maps
        strength = log_uniform(generator, (len(own),), PEAK_ABSORPTION[0], inner * PEAK_ABSORPTION[1])
        tied = each(chance(generator, (len(own),), 0.3))
        second = each(ratio[own] * peak[own]) * maps[own] * other
        mu[own] = torch.where(tied, mu[own] + second, each(strength) * other)
    mu = mu + _residual_absorption(n, shape, generator)
    sign = each(torch.where(chance(generator, (n,), 0.7), 1.0, -1.0))
    grain = GRAIN * each(peak)[:, None] * normal(generator, (n, 2, *shape))
    grained = grain * torch.tensor([1.0, 0.3], device=grain.device)[:, None, None]
    return _resolved(torch.stack([sign * phase, mu], 1) + grained, generator)


def _residual_absorption(n: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """(n, *shape) structure of the modulus that no material explains: dirt, thickness, optics."""
    width = log_uniform(generator, (n,), *RESIDUAL_WIDTH_PX)
    size = log_uniform(generator, (n,), *RESIDUAL_ABSORPTION) * chance(generator, (n,), 0.5)
    return each(size) * smooth_fields(n, max(shape), width, generator)[:, : shape[0], : shape[1]]


def _resolved(u: Tensor, generator: Generator) -> Tensor:
    """Objects as they can be resolved: where the phase jumps, the mean transmission of a pixel is lower."""
    width = log_uniform(generator, (len(u),), *RESOLUTION_PX)
    rows, columns = (torch.fft.fftfreq(m, device=u.device) for m in u.shape[-2:])
    low = torch.exp(-2 * (math.pi * each(width)).square() * (rows[:, None].square() + columns.square()))
    wave = torch.fft.ifft2(torch.fft.fft2(transmission(u)) * low)
    absorption = -wave.abs().clamp_min(math.exp(-3.0)).log()
    # the phase of a mean may differ by a turn from the mean of the phases
    turns = ((u[:, 0] - wave.angle()) / (2 * torch.pi)).round()
    return torch.stack([wave.angle() + 2 * torch.pi * turns, absorption], 1)


def _random_places(probe: Tensor, neighbours: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Whole offsets and fractions of positions, (n, J, 2) each; the patch's own are 0 and any."""
    n, size, device = len(probe), 1 + neighbours, probe.device
    step = light_radius(probe) * uniform(generator, (n,), 0.25, 1.4)
    rank = torch.arange(1, size, device=device)
    away = step[:, None] * (0.5 + rank / 2).sqrt() * uniform(generator, (n, neighbours), 0.8, 1.25)
    # frames that came before lie on one side of the line that is being scanned
    reach = torch.where(chance(generator, (n, 1), 0.4), 0.5, 1.0)
    turn = angles(generator, (n, 1)) + reach * 2 * torch.pi * (
        rank * 0.618 % 1.0 + uniform(generator, (n, neighbours), -0.1, 0.1)
    )
    offset = torch.zeros(n, size, 2, device=device)
    offset[:, 1:] = away[..., None] * torch.stack([turn.sin(), turn.cos()], -1)
    offset = offset.clamp(-FARTHEST_PX, FARTHEST_PX).round().long()
    between = chance(generator, (n, 1, 1), 0.7)
    fraction = torch.where(between, uniform(generator, (n, size, 2), -0.5, 0.5), 0.0)
    return offset, fraction


def _present(n: int, size: int, generator: Generator) -> Tensor:
    """(n, size) True for frames that are there: in two thirds of the groups all."""
    device = generator.device
    few = torch.randint(1, size + 1, (n, 1), generator=generator, device=device)
    count = torch.where(chance(generator, (n, 1), 0.67), size, few)
    return torch.arange(size, device=device) < count


def _random_mask(n: int, shape: tuple[int, int], near: Tensor, generator: Generator) -> Tensor:
    """(n, H, W) dead pixels in half of the detectors, a gap in a seventh, a beam stop in a twelfth."""
    device = generator.device
    share = uniform(generator, (n,), 0.0, 0.005) * chance(generator, (n,), 0.5)
    mask = dead_pixels(n, shape, share, generator)
    outside = torch.full((n, 1), shape[0], device=device)
    rows, columns = (
        torch.where(chance(generator, (n, 1), 0.07), integers(generator, (n, 1), 0, pixels - 1), outside)
        for pixels in shape
    )
    mask |= module_gaps(shape, rows, columns, 2)
    radius = uniform(generator, (n,), 0.8, 2.5) * (chance(generator, (n,), 0.08) & ~near)
    centre = torch.full((n, 2), shape[0] // 2, device=device).float()
    stop = beam_stop_disc(shape, centre, radius)
    return mask | torch.fft.ifftshift(stop, dim=(-2, -1))
