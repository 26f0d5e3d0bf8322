r"""A whole scan at once: its object, its probe, its positions and a background, by sweeps of rPIE.

Letters: N frames, B those of a batch, P probe modes, H, W frame, Y, X object. A frame is

    I_n = sum_p |D(probe_p patch_n)|^2 + background

Frames take turns in batches, in an order drawn anew each sweep. Each gives the waves at the detector its
measured amplitudes and moves the object and, where asked, the probe (Maiden, Johnson and Li, Optica 4, 736
(2017); several modes: Thibault and Menzel, Nature 494, 68 (2013)), and its own position by a damped step of
Gauss and Newton. What all frames have too much goes to the background.

Free remain the object's global phase, and, where the probe is free too, a shift and a ramp of both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.core import FrameError, GeometryError, SettingsError
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    NearField,
    exit_waves,
    fourier_shift,
    place_patches,
    split_positions,
    wave_intensity,
)

MARGIN_PX = 4
MOST_PIXELS = 2**27
FURTHEST_PX = 1.0
"""That a position moves in one sweep at most."""


class Exposures(NamedTuple):
    """Frames of one scan.

    Args:
        counts: (N, H, W) photons.
        mask: (N, H, W) or (H, W) bool, True = not used.
        position: (N, 2) float64 row and column of pixel [0, 0], px of the object, any origin.
    """

    counts: Tensor
    mask: Tensor
    position: Tensor


@dataclass(frozen=True)
class Sweeps:
    """How frames take turns.

    Args:
        number: of sweeps.
        batch: frames that take a turn together.
        regularisation: rPIE's a of the object, 0 < a <= 1.
        probe_from: sweep, counted from 1, from which on the probe moves too; None for a known probe.
        probe_step: share of its wish that the probe follows.
        positions_from: sweep from which on the positions move too; None for known positions.
        background: whether there is one.
    """

    number: int
    batch: int = 1
    regularisation: float = 0.3
    probe_from: int | None = None
    probe_step: float = 0.5
    positions_from: int | None = None
    background: bool = False

    def __post_init__(self) -> None:
        if self.number < 1 or self.batch < 1 or not 0 < self.regularisation <= 1:
            raise SettingsError(
                f"number={self.number}, batch={self.batch}, regularisation={self.regularisation}, expected "
                "1 or more of both and 0 < a <= 1"
            )


class WholeScan(NamedTuple):
    """What came out.

    Args:
        image: (Y, X) complex object.
        origin: (2,) int64 position of the image's pixel [0, 0].
        probe: (P, H, W) complex modes, photons^(1/2).
        position: (N, 2) float64 of the frames.
        background: (H, W) photons in every frame.
        misfit: (N,) mean squared deviation of each frame's square roots before its last turn, 1 for Poisson
            counts that fit.
    """

    image: Tensor
    origin: Tensor
    probe: Tensor
    position: Tensor
    background: Tensor
    misfit: Tensor


def sweep_scan(
    exposures: Exposures,
    probe: Tensor,
    propagation: FarField | NearField,
    sweeps: Sweeps,
    generator: Generator,
    start: WholeScan | None = None,
    after: Callable[[int, float], None] | None = None,
) -> WholeScan:
    """Reconstruct a scan.

    Args:
        exposures: of one scan; the direct beam of far-field frames where `propagation` has it.
        probe: (P, H, W) first or known modes, photons^(1/2).
        propagation: of all frames; a near field has one Fresnel number.
        sweeps: how many, and what moves.
        generator: of the order.
        start: object and background to go on from, of the same frames.
        after: is told the number of each sweep and its median misfit.

    Raises:
        FrameError: frames and probe of different sizes.
        GeometryError: positions too far apart for one array.
    """
    scan = _Scan(exposures, probe, propagation, sweeps, start)
    for number in range(1, sweeps.number + 1):
        scan.sweep(number, generator)
        if after is not None:
            after(number, float(scan.misfit.median()))
    return scan.result()


class _Scan:
    def __init__(
        self,
        exposures: Exposures,
        probe: Tensor,
        propagation: FarField | NearField,
        sweeps: Sweeps,
        start: WholeScan | None,
    ) -> None:
        counts = exposures.counts
        if counts.ndim != 3 or counts.shape[1:] != probe.shape[-2:]:
            raise FrameError(
                f"frames {tuple(counts.shape)} do not match the probe {tuple(probe.shape)}, expected one "
                "size; crop or pad the frames"
            )
        self._counts = counts.to(probe.real).clamp_min(0)
        self._amplitude = self._counts.sqrt()
        self._good = ~exposures.mask.expand_as(counts)
        self._propagation, self._sweeps = propagation, sweeps
        self._shape = (counts.shape[1], counts.shape[2])
        low = exposures.position.amin(0).floor().long() - MARGIN_PX
        size = (exposures.position.amax(0).ceil().long() + MARGIN_PX - low).tolist()
        rows, columns = (n + m for n, m in zip(size, self._shape, strict=True))
        if rows * columns > MOST_PIXELS:
            raise GeometryError(
                f"positions span {rows} x {columns} pixels, expected at most {MOST_PIXELS} in all; check "
                "their unit and the pixel size"
            )
        self._origin = low if start is None else start.origin
        self._image = probe.new_ones(rows, columns) if start is None else start.image.clone()
        self._place = exposures.position - self._origin
        self._probe = probe
        self._background = torch.zeros_like(self._counts[0]) if start is None else start.background
        self.misfit = torch.zeros(len(counts), dtype=counts.dtype)

    def sweep(self, number: int, generator: Generator) -> None:
        """Give every frame its turn."""
        s = self._sweeps
        moves_probe = s.probe_from is not None and number >= s.probe_from
        moves_places = s.positions_from is not None and number >= s.positions_from
        excess = torch.zeros_like(self._background)
        wishes = torch.zeros_like(self._place)
        order = torch.randperm(len(self._counts), generator=generator)
        for rows in order.split(s.batch):
            corner, fraction = split_positions(self._place[rows])
            fraction = fraction.to(self._counts)
            patch, probe = self._lit(corner, fraction)
            wave = self._propagation.forward(exit_waves(patch, probe))
            light = wave_intensity(wave)
            amplitude = (light + self._background).clamp_min(torch.finfo(light.dtype).tiny).sqrt()
            good = self._good[rows]
            short = torch.where(good, self._amplitude[rows] - amplitude, 0.0)
            self.misfit[rows] = 4 * short.square().sum((1, 2)) / good.sum((1, 2)).clamp_min(1)
            excess += torch.where(good, self._counts[rows] - light, 0.0).sum(0)
            if moves_places:
                wishes[rows] = self._shift_wish(corner, fraction, probe, wave, amplitude, short, good)
            moved = self._propagation.backward(wave * (short / amplitude)[:, None])
            self._move_image(corner, fraction, probe, moved)
            if moves_probe:
                self._move_probe(patch, fraction, moved)
        if s.background:
            self._background = (excess / self._good.sum(0).clamp_min(1)).clamp_min(0)
        if moves_places:
            self._move_places(wishes)

    def result(self) -> WholeScan:
        """What came out so far."""
        return WholeScan(
            self._image,
            self._origin,
            self._probe,
            self._place + self._origin,
            self._background,
            self.misfit,
        )

    @property
    def _far(self) -> bool:
        return isinstance(self._propagation, FarField)

    def _cut(self, corner: Tensor, image: Tensor) -> Tensor:
        height, width = self._shape
        return torch.stack([image[y : y + height, x : x + width] for y, x in corner.tolist()])

    def _lit(self, corner: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, H, W) and probes (B, P, H, W): the fractions go into the probe in the far field."""
        patch = self._cut(corner, self._image)
        probe = self._probe.expand(len(corner), *self._probe.shape)
        if self._far:
            return patch, fourier_shift(probe, fraction)
        return fourier_shift(patch, -fraction), probe

    def _move_image(self, corner: Tensor, fraction: Tensor, probe: Tensor, moved: Tensor) -> None:
        a = self._sweeps.regularisation
        light = wave_intensity(probe)
        step = 1 / ((1 - a) * light + a * light.amax((-2, -1), keepdim=True))
        change = step * (probe.conj() * moved).sum(1)
        if not self._far:
            change = fourier_shift(change, fraction)
        if len(corner) == 1:
            (y, x), (height, width) = corner[0].tolist(), self._shape
            self._image[y : y + height, x : x + width] += change[0]
            return
        shape = (self._image.shape[0], self._image.shape[1])
        total, weight = place_patches(change, corner, shape, light)
        self._image = self._image + total / weight.clamp_min(torch.finfo(weight.dtype).tiny)

    def _move_probe(self, patch: Tensor, fraction: Tensor, moved: Tensor) -> None:
        passed = patch.abs().square().mean(0)
        wish = patch.conj()[:, None] * moved
        if self._far:
            wish = fourier_shift(wish, -fraction)
        self._probe = self._probe + self._sweeps.probe_step * wish.mean(0) / passed.amax()

    def _shift_wish(
        self,
        corner: Tensor,
        fraction: Tensor,
        probe: Tensor,
        wave: Tensor,
        amplitude: Tensor,
        short: Tensor,
        good: Tensor,
    ) -> Tensor:
        """(B, 2) steps of positions that explain what the amplitudes lack, to first order."""
        slopes = []
        for axis in (0, 1):
            one = torch.tensor([1 - axis, axis])
            slope = (self._cut(corner + one, self._image) - self._cut(corner - one, self._image)) / 2
            if not self._far:
                slope = fourier_shift(slope, -fraction)
            change = (wave.conj() * self._propagation.forward(exit_waves(slope, probe))).real.sum(1)
            slopes.append(torch.where(good, change / amplitude, 0.0).flatten(1))
        jacobian = torch.stack(slopes, 2).double()
        normal = jacobian.mT @ jacobian
        ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-30)
        normal = normal + ridge[:, None, None] * torch.eye(2, dtype=normal.dtype)
        return torch.linalg.solve(normal, (jacobian.mT @ short.flatten(1).double()[..., None]))[..., 0]

    def _move_places(self, wishes: Tensor) -> None:
        """Half of the wishes; their mean is a shift of the object and stays out."""
        step = 0.5 * wishes
        size = step.norm(dim=1, keepdim=True)
        step = step * (FURTHEST_PX / size.clamp_min(FURTHEST_PX))
        place = self._place + step - step.mean(0)
        last = torch.tensor([n - m - 2 for n, m in zip(self._image.shape, self._shape, strict=True)])
        self._place = torch.minimum(place.clamp_min(2), last.to(place))
