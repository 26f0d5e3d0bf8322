"""What the first frames of a ptychographic scan say of it: its probe, and whether frames and places agree."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, NFPhasingError, PtychographyGeometry
from nfphasing_bluesky.core.orientation import Orientation
from nfphasing_bluesky.documents.ptychography import Optics, unusable

if TYPE_CHECKING:
    from nfphasing_bluesky.physics.imaging.scan_orientation import Candidate

log = logging.getLogger(__name__)

LEAST_FRAMES = 6
"""Frames below which nothing is said of their orientation."""

NAMED = 2
"""Orientations that are named at most."""

POOR = 3.0
"""Misfit, 1 for Poisson counts that fit, above which equals of an orientation say that all are wrong."""


@dataclass(frozen=True)
class Applied:
    """How frames and positions were turned on reading.

    Args:
        frames: of the stored frames.
        positions: of the positions as they were given, rows and columns.
    """

    frames: Orientation = Orientation()
    positions: Orientation = Orientation()


class Shots(NamedTuple):
    """Frames with light and a finite place.

    Args:
        counts: (N, H, W) float32, 0 where not used.
        mask: (N, H, W) True = not used.
        places: (N, 2) row and column of pixel [0, 0] in the object's pixels.
    """

    counts: NDArray[np.float32]
    mask: NDArray[np.bool_]
    places: NDArray[np.float64]


class Found(NamedTuple):
    """A probe (P, H, W), photons^(1/2), and in words where it is from."""

    probe: NDArray[np.complexfloating]
    source: str


class Agreement(NamedTuple):
    """Whether frames lie as their positions say.

    Args:
        doubt: what is wrong and what to do about it; empty when nothing was found.
        open_question: what could not be told; empty when all of it was, or `doubt` says it.
    """

    doubt: str = ""
    open_question: str = ""


def shots_of(
    frames: Iterable[NDArray],
    places: Iterable[tuple[float, float]] | NDArray,
    optics: Optics,
    masks: Iterable[NDArray[np.bool_] | None],
) -> Shots:
    """Gather the frames that have light and a place.

    Args:
        frames: counts (H, W) each.
        places: row and column of each.
        optics: says which counts are not believed.
        masks: (H, W) True = not used, or None, of each.
    """
    kept = []
    for counts, place, mask in zip(frames, places, masks, strict=True):
        if is_lit(counts, place, optics, mask):
            bad = unusable(counts, optics, mask)
            kept.append((np.where(bad, 0, counts).astype(np.float32), bad, place))
    if not kept:
        return Shots(np.zeros((0, 1, 1), np.float32), np.zeros((0, 1, 1), bool), np.zeros((0, 2)))
    counts, masks_, places_ = (np.array(part) for part in zip(*kept, strict=True))
    return Shots(counts, masks_, places_.astype(np.float64))


def is_lit(
    counts: NDArray, place: tuple[float, float] | NDArray, optics: Optics, mask: NDArray[np.bool_] | None
) -> bool:
    """Whether a frame has light in pixels that are used, and a place."""
    return bool(np.isfinite(place).all() and np.any(counts > 0, where=~unusable(counts, optics, mask)))


def find_probe(shots: Shots, optics: Optics, seed: int = 0) -> Found:
    """Retrieve the probe from frames.

    Raises:
        FrameError, GeometryError: too few frames, or none that overlap.
    """
    import torch  # the callback's process must not load it

    from nfphasing_bluesky.physics.imaging.probe_retrieval import check_overlap, retrieve_probe

    exposures = exposures_of(shots)
    check_overlap(exposures.position, (shots.counts.shape[1], shots.counts.shape[2]))
    generator = torch.Generator().manual_seed(seed)
    found = retrieve_probe(exposures, propagation_of(optics), generator)
    shares = ", ".join(f"{share:.1%}" for share in found.share.tolist())
    source = (
        f"retrieved from the first {len(shots.counts)} frames with light: modes {shares}, "
        f"misfit {found.misfit:.3g}"
    )
    log.warning("the probe was %s", source)
    return Found(found.probe.numpy(), source)


def check_agreement(
    shots: Shots,
    probe: NDArray[np.complexfloating],
    optics: Optics,
    applied: Applied | None = None,
    *,
    retrieved: bool = False,
) -> Agreement:
    """Say whether frames lie as their positions say, by how well those that overlap agree.

    Args:
        shots: of one scan.
        probe: (P, H, W), photons^(1/2).
        optics: of the scan, `centred` known.
        applied: how frames and positions were turned already: the advice comes on top of it.
        retrieved: the probe was found from these frames, as they are turned now.
    """
    if len(shots.counts) < LEAST_FRAMES:
        return Agreement("", f"{len(shots.counts)} frames are too few to tell")
    import torch  # the callback's process must not load it

    from nfphasing_bluesky.physics.imaging.scan_orientation import check_orientation, check_with_unknown_probe

    modes = torch.from_numpy(probe.astype(np.complex64))
    try:
        found = check_orientation(exposures_of(shots), modes, propagation_of(optics))
        if retrieved and found.undecided:
            # a probe found in a wrong orientation fits none
            found = check_with_unknown_probe(exposures_of(shots), propagation_of(optics))
    except NFPhasingError as error:
        return Agreement("", str(error))
    applied = applied or Applied()
    frames = f"{found.frames} frames that overlap"
    if found.better:
        return Agreement(
            f"frames and positions do not go together: {frames} have a misfit of {found.misfit:.3g}, and "
            f"{found.best:.3g} with {_named(found.better, applied)}"
        )
    if not found.undecided:
        return Agreement()
    if found.misfit > POOR:
        return Agreement(
            "",
            f"no orientation fits: {frames} have a misfit of {found.misfit:.3g} (1 for counts that fit), and "
            f"no less with {len(found.undecided)} others; check probe, unit of the positions, mask",
        )
    return Agreement("", f"{frames} fit as well with {_named(found.undecided, applied)}")


class Watch:
    """Looks at frames as they come, at some numbers of them, until frames and positions are known to agree.

    Frames of one line cannot tell which way the next one lies; so it is looked again when there are more.

    Args:
        first: frames after which it is looked for the first time; 0 for never.
        applied: how frames and positions were turned already.
        retrieved: the probe is found from the first frames.
    """

    def __init__(self, first: int, applied: Applied, *, retrieved: bool = False) -> None:
        self._retrieved = retrieved
        self._at = [first * factor for factor in (1, 4, 16)] if first else []
        self._applied = applied
        self._frames: list[Frame] = []
        self._found = Agreement("", "not looked at")

    @property
    def doubt(self) -> str:
        """What is wrong, in words; empty so far."""
        return self._found.doubt

    @property
    def said(self) -> str:
        """What there is to say about it."""
        return self._found.doubt or self._found.open_question or "frames and positions agree"

    def add(self, frames: Sequence[Frame], *, last: bool = False) -> None:
        """Take frames, and look if it is time to; `last` looks in any case, for want of more."""
        if not self._at or not frames:
            return
        self._frames.extend(frames)
        if not last and len(self._frames) < self._at[0]:
            return
        self._at = [number for number in self._at if number > len(self._frames)]
        self._look()
        if self._found.doubt or not self._found.open_question or not self._at:
            self._at, self._frames = [], []

    def _look(self) -> None:
        geometry = self._frames[-1].geometry
        assert isinstance(geometry, PtychographyGeometry)  # noqa: S101  made of such frames
        places = [frame.place or (np.nan, np.nan) for frame in self._frames]
        optics = Optics(geometry.fresnel_number, centred=geometry.centred)
        masks = [frame.mask for frame in self._frames]
        shots = shots_of([frame.intensity for frame in self._frames], places, optics, masks)
        self._found = check_agreement(shots, geometry.probe, optics, self._applied, retrieved=self._retrieved)
        if self._found.doubt:
            log.warning("%s: %s", self._frames[-1].origin.label, self._found.doubt)


def _named(candidates: Sequence["Candidate"], applied: Applied) -> str:
    """What to pass for the first of some orientations, and how many more there are."""
    more = len(candidates) - NAMED
    others = f", or {more} more" if more > 0 else ""
    return " or ".join(_advice(candidate, applied) for candidate in candidates[:NAMED]) + others


def _advice(candidate: "Candidate", applied: Applied) -> str:
    """What to do for one more turn; options of the command line and of a start document."""
    said = []
    if candidate.of == "positions":
        said.append(_of_positions(candidate.turn, applied))
    elif candidate.turn != Orientation():
        name = applied.frames.then(candidate.turn).name
        said.append(
            f"orientation {name} of the frames (--orientation {name}, nfphasing={{'orientation': '{name}'}})"
        )
    rows, columns = candidate.beam
    if rows or columns:
        said.append(
            f"the direct beam, {rows:+d} rows and {columns:+d} columns off its pixel, moved back by "
            f"{-rows:+d} and {-columns:+d} (numpy.roll of the {'turned ' * bool(said)}frames)"
        )
    return " and ".join(said)


def _of_positions(turn: Orientation, applied: Applied) -> str:
    total = applied.positions.then(turn)
    rows, columns = total.signs
    order = "xy" if total.transpose else "yx"
    swapped = ", rows and columns exchanged" if turn.transpose else ""
    return (
        f"signs {rows:+d}, {columns:+d} of the positions{swapped} (--positions-sign={rows},{columns} "
        f"--positions-order {order}, nfphasing={{'positions_sign': [{rows}, {columns}], "
        f"'positions_order': '{order}'}})"
    )


def exposures_of(shots: Shots):  # noqa: ANN201  a type of the physics, which is imported late
    """Frames as the physics takes them."""
    import torch

    from nfphasing_bluesky.physics.imaging.whole_scan import Exposures

    return Exposures(*(torch.from_numpy(part) for part in shots))


def propagation_of(optics: Optics):  # noqa: ANN201  a type of the physics, which is imported late
    """How the waves of a scan get to the detector."""
    from nfphasing_bluesky.physics.ptychography import FarField, NearField

    if optics.fresnel_number is not None:
        return NearField(optics.fresnel_number)
    return FarField(centred=optics.centred is not False)
