"""What a frame and its neighbours say together of the patch that the frame saw: rPIE on a few frames.

Letters: B patches to estimate, J frames of each, the patch's own first, P probe modes, H, W frame. The
object around a patch is a canvas that reaches as far as the neighbours do; frames take turns in it, the own
one last.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.physics.patches import places
from nfphasing_bluesky.physics.ptychography import (
    FarField,
    Propagation,
    exit_waves,
    fourier_shift,
    wave_intensity,
)


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


class GroupEstimate(NamedTuple):
    """What came out, (B, H, W) each but for `misfit`.

    Args:
        patches: complex, after each of the numbers of sweeps that were asked for.
        pull: complex, the own frame's last wish to change the patch, over its light and a little more.
        light: photons of the own frame per pixel of the patch, where it transmits all.
        seen: photons of all frames.
        misfit: (B,) mean squared deviation of the own frame's square roots, 1 for Poisson counts that fit.
    """

    patches: tuple[Tensor, ...]
    pull: Tensor
    light: Tensor
    seen: Tensor
    misfit: Tensor


def estimate_patches(
    group: Group,
    propagation: Propagation,
    sweeps: tuple[int, ...],
    *,
    regularisation: float = 0.3,
) -> GroupEstimate:
    """Estimate the patches of groups of frames with known probes.

    In a sweep every frame moves the canvas once, the own one last, as rPIE does (`projection_updates`). In
    the far field the fractions of the positions go into the probe, else into the patch.

    Args:
        group: the frames.
        propagation: of all of them.
        sweeps: increasing numbers of sweeps after which to keep the patches.
        regularisation: rPIE's a.

    Raises:
        FrameError: frames and probes of different sizes.
    """
    canvas = _Canvas(group, isinstance(propagation, FarField), regularisation)
    kept = []
    for sweep in range(1, sweeps[-1] + 1):
        for j in reversed(range(group.counts.shape[1])):
            change, misfit = canvas.update(j, propagation)
        if sweep in sweeps:
            kept.append(canvas.patches())
    return GroupEstimate(tuple(kept), change, canvas.light[:, 0], canvas.seen(), misfit)


class _Canvas:
    """The objects around B patches."""

    def __init__(self, group: Group, shift_probe: bool, regularisation: float) -> None:
        counts, probe = group.counts, group.probe
        if counts.shape[-2:] != probe.shape[-2:]:
            raise FrameError(
                f"frames {tuple(counts.shape[-2:])} do not match the probe {tuple(probe.shape[-2:])}, "
                "expected one size; crop or pad the frames"
            )
        b, j = counts.shape[:2]
        self._group, self._shift_patch = group, not shift_probe
        self._amplitude = counts.clamp_min(0).sqrt()
        self._probe = probe[:, None].expand(b, j, *probe.shape[1:])
        if shift_probe:
            flat = self._probe.flatten(0, 1)
            self._probe = fourier_shift(flat, group.fraction.flatten(0, 1).to(flat.real)).unflatten(0, (b, j))
        self.light = wave_intensity(self._probe)
        brightest = self.light.amax((-2, -1), keepdim=True)
        step = 1 / ((1 - regularisation) * self.light + regularisation * brightest)
        self._step = step * group.present[:, :, None, None]
        self._reach = int(group.offset.abs().max())
        shape = (b, *(n + 2 * self._reach for n in counts.shape[-2:]))
        used = ~group.mask[:, 0]
        passed = (counts[:, 0] * used).sum((1, 2)) / self.light[:, 0].sum((1, 2))
        self._canvas = passed.clamp(0.01, 4.0).sqrt()[:, None, None].to(probe.dtype).expand(shape).clone()

    def _place(self, j: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (self._amplitude.shape[-2], self._amplitude.shape[-1])
        return places(self._reach + self._group.offset[:, j], shape)

    def update(self, j: int, propagation: Propagation) -> tuple[Tensor, Tensor]:
        """Move the canvas by frame j of each group: the wished change (B, H, W), the misfit before (B,)."""
        place, fraction = self._place(j), self._group.fraction[:, j].to(self._amplitude)
        patch, probe = self._canvas[place], self._probe[:, j]
        if self._shift_patch:
            patch = fourier_shift(patch, -fraction)
        wave = propagation.forward(exit_waves(patch, probe))
        amplitude = wave_intensity(wave).clamp_min(torch.finfo(self._amplitude.dtype).tiny).sqrt()
        mask = self._group.mask[:, j]
        short = torch.where(mask, 0.0, self._amplitude[:, j] - amplitude)
        moved = propagation.backward(wave * (short / amplitude)[:, None])
        wish = (probe.conj() * moved).sum(1)
        change = self._step[:, j] * wish
        if self._shift_patch:
            change = fourier_shift(change, fraction)
        self._canvas[place] = self._canvas[place] + change
        # square roots of counts have a variance of 1/4
        misfit = 4 * short.square().sum((1, 2)) / (~mask).sum((1, 2)).clamp_min(1)
        faint = 0.05 * self.light[:, j].amax((-2, -1), keepdim=True)
        return wish / (self.light[:, j] + faint), misfit

    def patches(self) -> Tensor:
        """(B, H, W) of the own frames."""
        return self._canvas[self._place(0)]

    def seen(self) -> Tensor:
        """(B, H, W) photons of all frames on each pixel."""
        total = torch.zeros_like(self._canvas.real)
        for j in range(self._group.counts.shape[1]):
            place = self._place(j)
            total[place] = total[place] + self.light[:, j] * self._group.present[:, j, None, None]
        return total[self._place(0)]
