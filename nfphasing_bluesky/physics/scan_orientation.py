"""Whether the frames of a scan lie as its positions say: the eight orientations of either are tried.

Frames that overlap saw the same object. Put together in a wrong orientation they contradict each other, and
sweeps through them leave a larger misfit. The known probe tells frames that are turned, which it then does
not fit either, from positions that are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core.orientation import ORIENTATIONS, Orientation
from nfphasing_bluesky.physics.probe_retrieval import best_start
from nfphasing_bluesky.physics.ptychography import FarField, NearField
from nfphasing_bluesky.physics.whole_scan import Exposures, Sweeps, sweep_scan

FRAMES = 20
SWEEPS = Sweeps(3, batch=4)

CLEAR = 0.15
"""Difference of mean logarithms of misfits from which one orientation is called better than another ..."""

SIGNIFICANT = 4.0
"""... if it also is so many standard errors, over the frames, from 0."""


class Candidate(NamedTuple):
    """An orientation of frames or of positions, in place of the present one.

    Args:
        of: what is turned, "frames" or "positions".
        turn: how.
    """

    of: str
    turn: Orientation


PRESENT = Candidate("frames", Orientation())


class OrientationCheck(NamedTuple):
    """What the check found.

    Args:
        better: orientations that fit clearly better than the present one, the best and its equals.
        undecided: where none is better, orientations that fit about as well as the present one.
        misfit: of the present orientation, median over the frames; 1 for Poisson counts that fit.
        best: of the best of `better`.
        frames: that were looked at.
    """

    better: tuple[Candidate, ...]
    undecided: tuple[Candidate, ...]
    misfit: float
    best: float
    frames: int


def check_orientation(
    exposures: Exposures, probe: Tensor, propagation: FarField | NearField, seed: int = 0
) -> OrientationCheck:
    """Compare the present orientation of frames and positions with the others.

    Frames that are not square cannot be transposed.

    Args:
        exposures: frames of one scan; those nearest to the middle one are looked at.
        probe: (P, H, W) modes, photons^(1/2).
        propagation: of all frames.
        seed: of the order of the frames.
    """
    some = _cluster(exposures, FRAMES)
    fits = {False: True, True: probe.shape[-1] == probe.shape[-2]}
    found = {}
    for of in ("frames", "positions"):
        for turn in ORIENTATIONS.values():
            candidate = Candidate(of, turn)
            if candidate != PRESENT and (
                turn == Orientation() or (of == "frames" and not fits[turn.transpose])
            ):
                continue
            turned = turn_exposures(some, candidate, propagation)
            generator = torch.Generator().manual_seed(seed)
            found[candidate] = sweep_scan(turned, probe, propagation, SWEEPS, generator).misfit.log()
    return _judge(found)


def check_with_unknown_probe(
    exposures: Exposures, propagation: FarField | NearField, seed: int = 0
) -> OrientationCheck:
    """Compare the present orientation of the frames with the others by how well a probe can be retrieved.

    An object and a probe that are both turned by half a circle and conjugated make the same frames turned by
    half a circle: of two orientations that differ by that neither is better.

    Args:
        exposures: frames of one scan.
        propagation: of all frames.
        seed: of the order of the frames.
    """
    square = exposures.counts.shape[-1] == exposures.counts.shape[-2]
    found = {}
    for name in ("as-is", "flip-rows", "transpose", "rotate-90"):
        candidate = Candidate("frames", ORIENTATIONS[name])
        if candidate.turn.transpose and not square:
            continue
        turned = turn_exposures(exposures, candidate, propagation)
        scan = best_start(turned, propagation, torch.Generator().manual_seed(seed))
        found[candidate] = scan.misfit.clamp_min(1e-9).log()
    check = _judge(found)
    half = ORIENTATIONS["rotate-180"]
    twins = tuple(c for one in check.better for c in (one, Candidate("frames", one.turn.then(half))))
    return check._replace(better=twins)


def _judge(found: dict[Candidate, Tensor]) -> OrientationCheck:
    present = found.pop(PRESENT)
    frames = len(present)
    rest = {candidate: misfit - present for candidate, misfit in found.items()}
    better = {c: float(d.mean()) for c, d in rest.items() if _clear(-d)}
    lowest = min(better.values(), default=0.0)
    best = sorted((c for c, value in better.items() if value < lowest + CLEAR), key=lambda c: better[c])
    undecided = () if best else tuple(c for c, d in rest.items() if not _clear(d))
    median = float(present.exp().median())
    value = float(found[best[0]].exp().median()) if best else median
    return OrientationCheck(tuple(best), undecided, median, value, frames)


def _clear(difference: Tensor) -> bool:
    """Whether the mean of paired differences (N,) is above 0 beyond doubt."""
    error = float(difference.std()) / len(difference) ** 0.5
    return float(difference.mean()) > max(CLEAR, SIGNIFICANT * error)


def _cluster(exposures: Exposures, count: int) -> Exposures:
    """The frames nearest to the one in the middle."""
    position = exposures.position
    middle = (position - position.median(0).values).square().sum(1).argmin()
    chosen = (position - position[middle]).square().sum(1).argsort(stable=True)[:count]
    mask = exposures.mask[chosen] if exposures.mask.ndim == 3 else exposures.mask
    return Exposures(exposures.counts[chosen], mask, position[chosen])


def turn_exposures(
    exposures: Exposures, candidate: Candidate, propagation: FarField | NearField
) -> Exposures:
    """Turn the frames about their direct beam, or the positions about the origin."""
    if candidate.of == "positions":
        places = candidate.turn.places(exposures.position.numpy())
        return exposures._replace(position=torch.from_numpy(places.copy()))
    centre = None
    if isinstance(propagation, FarField):
        centre = exposures.counts.shape[-1] // 2 if propagation.centred else 0

    def turn(images: Tensor) -> Tensor:
        return torch.from_numpy(candidate.turn.image(images.numpy(), centre=centre).copy())

    return exposures._replace(counts=turn(exposures.counts), mask=turn(exposures.mask))
