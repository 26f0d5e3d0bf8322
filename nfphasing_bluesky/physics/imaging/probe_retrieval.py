"""The probe of a scan from its first frames: many starts, the best goes on, more modes join.

The first wave at the detector is the root of the mean frame. In the far field its phase is that of a focus
that lies out of the sample by an amount to be found: a start for each of several beam sizes, before and
behind the focus. A beam and its twin before the focus make frames alike: the positions tell them apart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.core import FrameError, GeometryError
from nfphasing_bluesky.physics.imaging.probes import light_radius
from nfphasing_bluesky.physics.imaging.whole_scan import Exposures, Sweeps, WholeScan, sweep_scan
from nfphasing_bluesky.physics.ptychography import FarField, NearField, wave_intensity

RADII = (0.03, 0.06, 0.1, 0.15, 0.2, 0.25)
"""Root mean square radii of the beams that are tried, in sides of the frame."""

NARROWEST = 0.5
"""Steps of the scan that a beam's radius must have: frames of a narrower one say nothing of each other."""

LEAST_FRAMES = 9
HALVINGS = ((4, 4), (8, 2), (12, 1))
"""Sweeps of each start, and how many starts then go on."""

ROUND = 10
"""Sweeps after which the modes are made orthogonal again."""

LEAST_GAIN = 0.02
"""Share by which the misfit must fall in a round, or it was the last."""

LEAST_SHARE = 0.005
"""Of the light, below which a mode is left out."""


@dataclass(frozen=True)
class RetrievalSettings:
    """How a probe is retrieved.

    Args:
        modes: P at most; those with hardly any light are left out.
        alone: sweeps of the first mode alone, after the best start is found.
        together: sweeps of all modes at most; fewer once ten of them gain less than `LEAST_GAIN`.
        batch: frames that take a turn together.
    """

    modes: int = 3
    alone: int = 20
    together: int = 100
    batch: int = 8


class RetrievedProbe(NamedTuple):
    """A probe, and how well it fits.

    Args:
        probe: (P, H, W) complex orthogonal modes, photons^(1/2), the brightest first.
        share: (P,) of the light in each.
        misfit: median over the frames of the mean squared deviation of square roots, 1 for Poisson counts.
        scan: the whole of it, its probe the same.
    """

    probe: Tensor
    share: Tensor
    misfit: float
    scan: WholeScan


def retrieve_probe(
    exposures: Exposures,
    propagation: FarField | NearField,
    generator: Generator,
    settings: RetrievalSettings | None = None,
    after: Callable[[float], None] | None = None,
) -> RetrievedProbe:
    """Retrieve the probe of overlapping frames.

    Args:
        exposures: the frames; the direct beam where `propagation` has it.
        propagation: of all frames.
        generator: of all that is random.
        settings: sweeps and modes.
        after: is told the share of the work that is done.

    Raises:
        FrameError: fewer than `LEAST_FRAMES` frames, or no light.
        GeometryError: positions of which no two are near each other.
    """
    settings = settings or RetrievalSettings()
    if len(exposures.counts) < LEAST_FRAMES:
        raise FrameError(
            f"{len(exposures.counts)} frames to retrieve the probe from, expected {LEAST_FRAMES} or more; "
            "pass a probe, or wait for more frames"
        )
    tell = _Progress(settings, after)
    scan = best_start(exposures, propagation, generator, settings.batch, tell.sweep)
    sweeps = Sweeps(settings.alone, batch=settings.batch, probe_from=1, probe_step=1.0)
    scan = sweep_scan(exposures, scan.probe, propagation, sweeps, generator, scan, tell.sweep)
    probe = with_further_modes(scan.probe, settings.modes)
    for first in range(0, settings.together, ROUND):
        before = float(scan.misfit.median())
        turn = replace(sweeps, number=min(ROUND, settings.together - first))
        scan = sweep_scan(exposures, orthogonal(probe), propagation, turn, generator, scan, tell.sweep)
        probe = scan.probe
        if float(scan.misfit.median()) > (1 - LEAST_GAIN) * before:
            break
    probe = _without_dark_modes(orthogonal(probe))
    probe = _middled(_without_ramp(probe, scan.image))
    light = wave_intensity(probe[:, None]).sum((1, 2))
    misfit = float(scan.misfit.median())
    return RetrievedProbe(probe, light / light.sum(), misfit, scan._replace(probe=probe))


def best_start(
    exposures: Exposures,
    propagation: FarField | NearField,
    generator: Generator,
    batch: int = 8,
    after: Callable[[int, float], None] | None = None,
) -> WholeScan:
    """Give every start some sweeps, the better half some more, and so on.

    Args:
        exposures: the frames.
        propagation: of all frames.
        generator: of the order of the frames, the same for all starts.
        batch: frames that take a turn together.
        after: is told the number of each sweep and its median misfit.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    running: Sequence[tuple[Tensor, WholeScan | None]] = [
        (probe, None) for probe in starts(exposures, propagation)
    ]
    for number, left in HALVINGS:
        done = []
        for probe, scan in running:
            sweeps = Sweeps(number, batch=batch, probe_from=1 if scan is not None else 2)
            same = torch.Generator().manual_seed(seed + number)
            done.append(sweep_scan(exposures, probe, propagation, sweeps, same, scan, after))
        done.sort(key=lambda scan: float(scan.misfit.median()))
        running = [(scan.probe, scan) for scan in done[:left]]
    return done[0]


def starts(exposures: Exposures, propagation: FarField | NearField) -> list[Tensor]:
    """First probes (1, H, W) to try, of as many photons as the frames; FrameError where these have none."""
    used = (~exposures.mask).expand_as(exposures.counts)
    mean = (exposures.counts.clamp_min(0) * used).sum(0) / used.sum(0).clamp_min(1)
    if not bool(mean.sum() > 0):
        raise FrameError("no photons in the frames to retrieve the probe from; check shutter and mask")
    wave = mean.sqrt().to(torch.complex64 if mean.dtype == torch.float32 else torch.complex128)
    if isinstance(propagation, NearField):
        return [propagation.backward(wave[None, None])[0]]
    if propagation.centred:
        wave, mean = torch.fft.ifftshift(wave), torch.fft.ifftshift(mean)
    side, step = min(mean.shape), scan_step(exposures.position)
    rows, columns = (torch.fft.fftfreq(n, dtype=mean.dtype) for n in mean.shape)
    squared = rows[:, None].square() + columns.square()
    spread = float((squared * mean).sum() / mean.sum()) ** 0.5
    radii = [r * side for r in RADII if r * side >= NARROWEST * step] or [RADII[-1] * side]
    # a defocus of c f^2 / 2 cycles moves light of frequency f by c f pixels
    chirps = [sign * math.pi * radius / spread for radius in radii for sign in (1.0, -1.0)]
    waves = [wave * torch.polar(torch.ones_like(squared), chirp * squared) for chirp in chirps]
    return [torch.fft.fftshift(torch.fft.ifft2(w, norm="ortho"))[None] for w in waves]


def scan_step(position: Tensor) -> float:
    """Median distance from a position (N, 2) to the next one, px."""
    away = torch.cdist(position, position)
    away.fill_diagonal_(torch.inf)
    return float(away.amin(1).median())


def with_further_modes(probe: Tensor, modes: int, share: float = 0.03) -> Tensor:
    """(P, H, W) a mode and weak ones like those of a source that moves: it times rows, columns, ..."""
    first = probe[0]
    rows, columns = (torch.arange(n, dtype=first.real.dtype) - n / 2 for n in first.shape)
    radius = float(light_radius(probe[None, :1]).clamp_min(1.0))
    y, x = rows[:, None] / radius, columns / radius
    shapes = [y.expand_as(first), x.expand_as(first), y * x, y.square(), x.square()]
    further = [first * shape for shape in shapes[: max(0, modes - 1)]]
    further = [wave * (share**0.5 * first.norm() / wave.norm()) for wave in further]
    return orthogonal(torch.stack([first, *further]))


def orthogonal(probe: Tensor) -> Tensor:
    """(P, H, W) modes of the same light, orthogonal, the brightest first."""
    left, size, right = torch.linalg.svd(probe.flatten(1), full_matrices=False)
    turn = (left[:, 0].conj() / left[:, 0].abs().clamp_min(1e-30))[0].conj()
    return (size[:, None] * right * turn).view_as(probe)


class _Progress:
    """Turns sweeps into a share of the work."""

    def __init__(self, settings: RetrievalSettings, after: Callable[[float], None] | None) -> None:
        first, second, third = (number for number, _ in HALVINGS)
        search = 2 * len(RADII) * first + HALVINGS[0][1] * second + HALVINGS[1][1] * third
        self._whole, self._done, self._after = search + settings.alone + settings.together, 0, after

    def sweep(self, number: int, misfit: float) -> None:
        self._done += 1
        if self._after is not None:
            self._after(min(1.0, self._done / self._whole))


def _without_dark_modes(probe: Tensor) -> Tensor:
    light = wave_intensity(probe[:, None]).sum((1, 2))
    return probe[light >= LEAST_SHARE * light.sum()]


def _without_ramp(probe: Tensor, image: Tensor) -> Tensor:
    """Give the probe the ramp that the object's phase has on average; both fit the frames alike."""
    for axis, n in ((0, image.shape[0]), (1, image.shape[1])):
        later, earlier = image.narrow(axis, 1, n - 1), image.narrow(axis, 0, n - 1)
        slope = (later * earlier.conj()).sum().angle()
        place = torch.arange(probe.shape[1 + axis], dtype=image.real.dtype)
        ramp = torch.polar(torch.ones_like(place), slope * (place - probe.shape[1 + axis] // 2))
        probe = probe * (ramp[:, None] if axis == 0 else ramp)
    return probe


def _middled(probe: Tensor) -> Tensor:
    """Move the light's centre to the frame's middle by whole pixels; the object moves with it."""
    light = wave_intensity(probe)
    shifts = []
    for axis in (0, 1):
        n = light.shape[axis]
        profile = light.sum(1 - axis)
        angle = torch.arange(n, dtype=profile.dtype) * (2 * math.pi / n)
        centre = torch.complex((profile * angle.cos()).sum(), (profile * angle.sin()).sum()).angle()
        shifts.append(round(n / 2 - float(centre) / (2 * math.pi) * n) % n)
    return torch.roll(probe, shifts, (-2, -1))


def check_overlap(position: Tensor, shape: tuple[int, int]) -> None:
    """Raise GeometryError where hardly any two frames lie on each other."""
    step = scan_step(position)
    if step >= min(shape) / 2:
        raise GeometryError(
            f"the next frame is {step:.4g} pixels away (median), expected less than half of their size, "
            f"{shape}, to retrieve a probe; pass the probe, or scan in finer steps"
        )
