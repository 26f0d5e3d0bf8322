"""Draws of flows for the frames of a batch, their anchors, and what the forward model says of them.

Dimension letters: B frames of a batch, N draws in a flat list, D free parameters, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor


@dataclass(frozen=True)
class ClassSpec:
    """One class of objects: its name and the box of its free parameters (prior support)."""

    name: str
    free: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True)
class Draws:
    """N parameter vectors, each of one class and for one frame of a batch.

    Args:
        label: (N,) int64, class; of a draw that one of several answers was made from, which one.
        theta: (N, D) free parameters, the class's own first, zeros behind.
        frame: (N,) int64, index of the frame in its batch.
    """

    label: Tensor
    theta: Tensor
    frame: Tensor

    def __len__(self) -> int:
        return self.label.numel()

    def at(self, index: Tensor) -> "Draws":
        """Return the draws that an index or a boolean mask picks."""
        return Draws(self.label[index], self.theta[index], self.frame[index])


class Anchors:
    """Anchors of B frames for K classes, found when first asked for and then kept.

    A modality of one class may keep several answers of it as if they were classes.

    Args:
        frames: B.
        find: of a class and the indices of frames, the anchors of those; None when all are put in.
        together: `find` for several classes, each with its frames, where that is faster.
    """

    def __init__(
        self,
        frames: int,
        find: Callable[[int, Tensor], Anchor] | None = None,
        together: Callable[[Mapping[int, Tensor]], Mapping[int, Anchor]] | None = None,
    ) -> None:
        self._find, self._together = find, together
        self._frames = frames
        self._kept: dict[int, tuple[Anchor, Tensor]] = {}

    @property
    def kinds(self) -> tuple[int, ...]:
        """Classes of which anchors are known."""
        return tuple(self._kept)

    def put(self, k: int, frames: Tensor, anchor: Anchor) -> None:
        """Keep anchors of class k for some frames."""
        if k not in self._kept:
            parts = (anchor.location, anchor.factor, anchor.features)
            empty = Anchor(*(p.new_zeros(self._frames, *p.shape[1:]) for p in parts))
            known = torch.zeros(self._frames, dtype=torch.bool, device=frames.device)
            self._kept[k] = (empty, known)
        kept, known = self._kept[k]
        kept.location[frames], kept.factor[frames] = anchor.location, anchor.factor
        kept.features[frames] = anchor.features
        known[frames] = True

    def prepare(self, wanted: Mapping[int, Tensor]) -> None:
        """Find the anchors of several classes, each for some frames (F,), that are not known yet.

        Raises:
            LookupError: one is not known, and nothing finds it.
        """
        missing = {}
        for k, frames in wanted.items():
            unknown = frames[~self._kept[k][1][frames]] if k in self._kept else frames
            if unknown.numel():
                missing[k] = unknown.unique()
        if missing and self._together is not None:
            for k, anchor in self._together(missing).items():
                self.put(k, missing[k], anchor)
            return
        for k, frames in missing.items():
            if self._find is None:
                raise LookupError(f"{frames.numel()} frames have no anchor of class {k}")
            self.put(k, frames, self._find(k, frames))

    def get(self, k: int, frames: Tensor) -> Anchor:
        """Anchors of class k for some frames, in their order."""
        self.prepare({k: frames})
        return self._kept[k][0].at(frames)


@dataclass(frozen=True)
class Evaluated:
    """What the forward model says about N draws.

    Args:
        log_likelihood: (N,) log p(I | theta) with linear nuisances integrated out, up to a constant of
            the frame.
        nuisance: name -> (N, ...) draws of what is linear from their exact conditional.
        predicted: (N, ...) expected intensity of each draw, in the frame's units.
    """

    log_likelihood: Tensor
    nuisance: Mapping[str, Tensor]
    predicted: Tensor

    def at(self, index: Tensor) -> "Evaluated":
        """Return what it says about the draws that an index picks."""
        own = {name: value[index] for name, value in self.nuisance.items()}
        return Evaluated(self.log_likelihood[index], own, self.predicted[index])
