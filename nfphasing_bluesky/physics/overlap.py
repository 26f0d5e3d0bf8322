"""What a frame and its neighbours say together of the patch that the frame saw.

Letters: B patches to estimate, J frames of each, the patch's own first, P probe modes, H, W frame, Y, X
canvas. The object around a patch is a canvas that reaches as far as the neighbours do. First frames take
turns in it, as rPIE does, the own one last; then all of them together, and what objects look like, settle
it (`physics.smooth_objects`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.physics.patches import add_at, cut
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
        probe: (B, P, H, W) modes of each patch's frames, photons^(1/2).
        offset: (B, J, 2) int64 whole rows and columns from the patch to each frame; 0 for its own.
        fraction: (B, J, 2) what is left of the positions, px, in [-1/2, 1/2).
        present: (B, J) False where a patch has fewer frames.
    """

    counts: Tensor
    mask: Tensor
    probe: Tensor
    offset: Tensor
    fraction: Tensor
    present: Tensor


def reach_px(offset: Tensor) -> Tensor:
    """(B,) pixels that a canvas reaches beyond its patch, for offsets (B, J, 2); in steps: few differ."""
    farthest = offset.abs().flatten(1).amax(1).clamp_min(1)
    return torch.div(farthest + REACH_STEP_PX - 1, REACH_STEP_PX, rounding_mode="floor") * REACH_STEP_PX


class GroupFrames:
    """The waves of a group's frames, linear in the canvas, and how the canvas hears of them.

    In the far field the fractions of the positions go into the probe, else into the patch. The canvases of
    all groups are as large as the largest needs to be; what comes out of one depends on it a little.

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
        self._propagation, self._fraction = propagation, group.fraction.to(counts)
        self._shift_patch = not isinstance(propagation, FarField)
        probes = probe[:, None].expand(b, self.count, *probe.shape[1:])
        if not self._shift_patch:
            flat = fourier_shift(probes.flatten(0, 1), self._fraction.flatten(0, 1))
            probes = flat.unflatten(0, (b, self.count))
        self._probe, self._conjugate = probes, probes.conj().resolve_conj()
        self._reach = int(reach_px(group.offset).max())
        self._size = (counts.shape[-2], counts.shape[-1])
        self._corner = (self._reach + group.offset).unbind(1)
        self.light = wave_intensity(probes) * group.present[:, :, None, None]

    def waves(self, canvas: Tensor, j: int) -> Tensor:
        """(B, P, H, W) at the detector, in frame j of each group."""
        patch = cut(canvas, self._corner[j], self._size)
        if self._shift_patch:
            patch = fourier_shift(patch, -self._fraction[:, j])
        return self._propagation.forward(exit_waves(patch, self._probe[:, j]))

    def heard(self, waves: Tensor, j: int) -> Tensor:
        """(B, H, W) in the pixels of frame j: the adjoint of `waves` but for the place."""
        back = mode_sum(self._conjugate[:, j] * self._propagation.backward(waves), 1)
        return fourier_shift(back, self._fraction[:, j]) if self._shift_patch else back

    def add(self, canvas: Tensor, patch: Tensor, j: int) -> None:
        """Add patches (B, H, W) to the canvas where frame j lies."""
        add_at(canvas, self._corner[j], patch)

    def patches(self, canvas: Tensor) -> Tensor:
        """(B, H, W) where the own frames lie."""
        return cut(canvas, self._corner[0], self._size)

    def flat(self) -> Tensor:
        """(B, Y, X) complex objects that transmit what the own frames say that patches transmit."""
        shape = [n + 2 * self._reach for n in self.counts.shape[-2:]]
        own = self.used[:, 0]
        passed = (self.counts[:, 0] * own).sum((1, 2)) / self.light[:, 0].sum((1, 2))
        level = passed.clamp(0.01, 4.0).sqrt().to(self._probe.dtype)
        return level[:, None, None].expand(-1, *shape).clone()

    def seen(self) -> Tensor:
        """(B, Y, X) photons of all frames on each pixel."""
        total = torch.zeros_like(self.flat().real)
        for j in range(self.count):
            self.add(total, self.light[:, j], j)
        return total


def sweeps(frames: GroupFrames, number: int, *, regularisation: float = 0.3) -> Tensor:
    """(B, Y, X) objects after every frame moved the canvas a number of times, the own one last (rPIE).

    Between sweeps the canvas goes on in the direction in which it moves (Nesterov), which makes ten sweeps
    better than fifteen.

    Args:
        frames: of the groups.
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


def pull(frames: GroupFrames, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """What the own frames still wish to change.

    Returns:
        (B, H, W) complex change of the patch, over its light and a little more; (B,) mean squared deviation
        of the frame's square roots, 1 for Poisson counts that fit.
    """
    wave = frames.waves(canvas, 0)
    short = frames.counts[:, 0].sqrt() - wave_intensity(wave).sqrt()
    own, light = frames.used[:, 0], frames.light[:, 0]
    # square roots of counts have a variance of 1/4
    misfit = 4 * (own * short.square()).sum((1, 2)) / own.sum((1, 2)).clamp_min(1)
    wish = frames.heard(_to_measured(frames, wave, 0), 0)
    return wish / (light + 0.05 * light.amax((-2, -1), keepdim=True)).clamp_min(1e-30), misfit


def _to_measured(frames: GroupFrames, wave: Tensor, j: int) -> Tensor:
    """(B, P, H, W) what waves lack of the measured amplitudes; nothing where a pixel is not used."""
    amplitude = wave_intensity(wave).clamp_min(torch.finfo(wave.real.dtype).tiny).sqrt()
    share = torch.where(frames.used[:, j], frames.counts[:, j].sqrt() / amplitude - 1, 0.0)
    return wave * share[:, None]
