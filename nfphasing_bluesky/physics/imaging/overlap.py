"""Frames that overlap, from the few that a frame has beside it to whole scans, and sweeps through them.

Letters: B scans, J frames of each, P probe modes, H, W frame, Y, X canvas. The object of a scan is a canvas
that reaches as far as its frames do. First frames take turns in it, as rPIE does; then all of them together,
and what objects look like, settle it (`physics.imaging.smooth_objects`).
"""

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.physics.imaging.patches import add_at, cut
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    Propagation,
    exit_waves,
    fourier_shift,
    mode_sum,
    wave_intensity,
)

REACH_STEP_PX = 8


class Group(NamedTuple):
    """Frames that overlap.

    Args:
        counts: (B, J, H, W) photons.
        mask: (B, J, H, W) True = not used.
        probe: (B, P, H, W) modes of each scan's frames, photons^(1/2).
        offset: (B, J, 2) int64 whole rows and columns from the canvas's middle to each frame's.
        fraction: (B, J, 2) what is left of the positions, px, in [-1/2, 1/2).
        present: (B, J) False where a scan has fewer frames.
        background: (B, H, W) photons in every frame of a scan that never saw the object.
    """

    counts: Tensor
    mask: Tensor
    probe: Tensor
    offset: Tensor
    fraction: Tensor
    present: Tensor
    background: Tensor

    def at(self, rows: Tensor) -> "Group":
        """Those of some scans."""
        return Group(*(part[rows] for part in self))


def reach_px(offset: Tensor) -> Tensor:
    """(B, 2) rows and columns that a canvas reaches beyond a frame in its middle; in steps: few differ."""
    farthest = offset.abs().amax(1).clamp_min(1)
    return torch.div(farthest + REACH_STEP_PX - 1, REACH_STEP_PX, rounding_mode="floor") * REACH_STEP_PX


class GroupFrames:
    """The waves of a group's frames, linear in the canvas, and how the canvas hears of them.

    In the far field the fractions of the positions go into the probe, else into the patch. The canvases of
    all scans are as large as the largest needs to be; what comes out of one depends on it a little.

    Raises:
        FrameError: frames and probes of different sizes.
    """

    def __init__(self, group: Group, propagation: Propagation) -> None:
        counts, probe = group.counts, group.probe
        if counts.shape[-2:] != probe.shape[-2:]:
            raise FrameError(
                f"frames {tuple(counts.shape[-2:])} do not match the probe {tuple(probe.shape[-2:])}, "
                "expected one size; crop or pad the frames"
            )
        b, self.count = counts.shape[:2]
        self.counts = counts.clamp_min(0)
        self.used = ~group.mask & group.present[:, :, None, None]
        self.background = group.background.to(counts)
        self._propagation, self._fraction = propagation, group.fraction.to(counts)
        self._shift_patch = not isinstance(propagation, FarField)
        probes = probe[:, None].expand(b, self.count, *probe.shape[1:])
        if not self._shift_patch:
            flat = fourier_shift(probes.flatten(0, 1), self._fraction.flatten(0, 1))
            probes = flat.unflatten(0, (b, self.count))
        self._probe, self._conjugate = probes, probes.conj().resolve_conj()
        reach = reach_px(group.offset).amax(0)
        self._size = (counts.shape[-2], counts.shape[-1])
        rows, columns = (n + 2 * r for n, r in zip(self._size, reach.tolist(), strict=True))
        self._shape = (int(rows), int(columns))
        self._corner = reach + group.offset
        self.light = wave_intensity(probes) * group.present[:, :, None, None]

    def at(self, rows: slice) -> "GroupFrames":
        """Frames of some scans, on canvases of the same shape."""
        one = copy(self)
        per_scan = ("counts", "used", "background", "light", "_fraction", "_probe", "_conjugate", "_corner")
        parts = {name: getattr(self, name)[rows] for name in per_scan}
        vars(one).update(parts, _propagation=self._propagation.at(rows))
        return one

    def with_background(self, background: Tensor) -> "GroupFrames":
        """The same frames over another background (B, H, W)."""
        other = copy(self)
        other.background = background
        return other

    def photons(self, wave: Tensor) -> Tensor:
        """(B, H, W) what frames with these waves (B, P, H, W) count on average."""
        return wave_intensity(wave) + self.background

    def waves(self, canvas: Tensor, j: int) -> Tensor:
        """(B, P, H, W) at the detector, in frame j of each scan."""
        patch = cut(canvas, self._corner[:, j], self._size)
        if self._shift_patch:
            patch = fourier_shift(patch, -self._fraction[:, j])
        return self._propagation.forward(exit_waves(patch, self._probe[:, j]))

    def heard(self, waves: Tensor, j: int) -> Tensor:
        """(B, H, W) in the pixels of frame j: the adjoint of `waves` but for the place."""
        back = mode_sum(self._conjugate[:, j] * self._propagation.backward(waves), 1)
        return fourier_shift(back, self._fraction[:, j]) if self._shift_patch else back

    def add(self, canvas: Tensor, patch: Tensor, j: int) -> None:
        """Add patches (B, H, W) to the canvas where frame j lies."""
        add_at(canvas, self._corner[:, j], patch)

    def contrast(self, frequency_squared: Tensor) -> Tensor:
        """(B or 1, 2, Y, X) as `Propagation.contrast` has it."""
        return self._propagation.contrast(frequency_squared)

    def patches(self, canvas: Tensor, j: int = 0) -> Tensor:
        """(B, H, W) where frames j lie."""
        return cut(canvas, self._corner[:, j], self._size)

    def flat(self) -> Tensor:
        """(B, Y, X) complex objects that transmit what the frames say that they transmit."""
        own = (self.counts - self.background[:, None]) * self.used
        passed = own.sum((1, 2, 3)) / self.light.sum((1, 2, 3))
        level = passed.clamp(0.01, 4.0).sqrt().to(self._probe.dtype)
        return level[:, None, None].expand(-1, *self._shape).clone()

    def seen(self) -> Tensor:
        """(B, Y, X) photons of all frames on each pixel."""
        total = torch.zeros_like(self.flat().real)
        for j in range(self.count):
            self.add(total, self.light[:, j], j)
        return total


def sweeps(frames: GroupFrames, number: int, *, regularisation: float = 0.3) -> Tensor:
    """(B, Y, X) objects after every frame moved the canvas a number of times, the first one last (rPIE).

    Between sweeps the canvas goes on in the direction in which it moves (Nesterov), which makes ten sweeps
    better than fifteen.

    Args:
        frames: of the scans.
        number: of sweeps.
        regularisation: rPIE's a.
    """
    brightest = frames.light.amax((-2, -1), keepdim=True)
    step = 1 / ((1 - regularisation) * frames.light + regularisation * brightest).clamp_min(1e-30)
    canvas = frames.flat()
    last, weight = canvas, 1.0
    for sweep in range(number):
        canvas = canvas.clone()
        for j in reversed(range(frames.count)):
            wave = frames.waves(canvas, j)
            frames.add(canvas, step[:, j] * frames.heard(_to_measured(frames, wave, j), j), j)
        heavier = (1 + (1 + 4 * weight**2) ** 0.5) / 2
        ahead = (weight - 1) / heavier if sweep + 1 < number else 0.0
        canvas, last, weight = canvas + ahead * (canvas - last), canvas, heavier
    return canvas


def pull(frames: GroupFrames, canvas: Tensor, j: int = 0) -> tuple[Tensor, Tensor]:
    """What frames j still wish to change.

    Returns:
        (B, H, W) complex change of the patch, over its light and a little more; (B,) mean squared deviation
        of the frame's square roots, 1 for Poisson counts that fit.
    """
    wave = frames.waves(canvas, j)
    short = frames.counts[:, j].sqrt() - frames.photons(wave).sqrt()
    own, light = frames.used[:, j], frames.light[:, j]
    # square roots of counts have a variance of 1/4
    misfit = 4 * (own * short.square()).sum((1, 2)) / own.sum((1, 2)).clamp_min(1)
    wish = frames.heard(_to_measured(frames, wave, j), j)
    return wish / (light + 0.05 * light.amax((-2, -1), keepdim=True)).clamp_min(1e-30), misfit


def _to_measured(frames: GroupFrames, wave: Tensor, j: int) -> Tensor:
    """(B, P, H, W) what waves lack of the measured amplitudes; nothing where a pixel is not used."""
    amplitude = frames.photons(wave).clamp_min(torch.finfo(wave.real.dtype).tiny).sqrt()
    share = torch.where(frames.used[:, j], frames.counts[:, j].sqrt() / amplitude - 1, 0.0)
    return wave * share[:, None]
