"""Whether the frames of a scan lie as its positions say: the eight orientations of either are tried.

Frames that overlap saw the same object. Put together in a wrong orientation they contradict each other, and
sweeps through them leave a larger misfit. The known probe tells frames that are turned, which it then does
not fit either, from positions that are.

Detectors turn about the middle of their array, which on an even side is between pixels: of mirrored frames
the direct beam then lies a pixel beside where it should be. To the frames that is a ramp of the object's
phase, of one cycle a frame, which a few sweeps do not find; so the mean frame is compared with the probe's
own far field, each orientation is tried with the beam moved where it belongs, and a beam that lies elsewhere
is named.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.core.orientation import ORIENTATIONS, Orientation
from nfphasing_bluesky.physics.imaging.probe_retrieval import best_start
from nfphasing_bluesky.physics.imaging.whole_scan import Exposures, Sweeps, sweep_scan
from nfphasing_bluesky.physics.ptychography import FarField, NearField, wave_intensity

FRAMES = 20
SWEEPS = Sweeps(3, batch=4)

CLEAR = 0.15
"""Difference of mean logarithms of misfits from which one orientation is called better than another ..."""

SIGNIFICANT = 4.0
"""... if it also is so many standard errors, over the frames, from 0."""


LEAST_SEEN = 0.25
"""Share of the beam that must lie on pixels in use for a place of it to be believed."""


class Candidate(NamedTuple):
    """An orientation of frames or of positions, in place of the present one.

    Args:
        of: what is turned, "frames" or "positions".
        turn: how.
        beam: rows and columns by which the direct beam of the turned frames lies off its place.
    """

    of: str
    turn: Orientation
    beam: tuple[int, int] = (0, 0)


PRESENT = Candidate("frames", Orientation())


class OrientationCheck(NamedTuple):
    """What the check found.

    Args:
        better: orientations that fit clearly better than the present one, the best and its equals.
        undecided: where none is better, orientations that fit about as well as the present one, the best
            first.
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
    square = probe.shape[-1] == probe.shape[-2]

    def misfit(candidate: Candidate, frames: Exposures) -> Tensor:
        turned = turn_exposures(frames, candidate, propagation)
        generator = torch.Generator().manual_seed(seed)
        return sweep_scan(turned, probe, propagation, SWEEPS, generator).misfit.log()

    found = {PRESENT: misfit(PRESENT, some)}
    for turn in ORIENTATIONS.values():
        if square or not turn.transpose:
            candidate = Candidate("frames", turn)
            turned = turn_exposures(some, candidate, propagation)
            candidate = candidate._replace(beam=beam_offset(turned, probe, propagation))
            if candidate != PRESENT:
                found[candidate] = misfit(candidate, some)
    centred = next((c for c in found if c.turn == Orientation() and c != PRESENT), PRESENT)
    if centred != PRESENT and not _clear(found[PRESENT] - found[centred]):
        centred = PRESENT
    for turn in ORIENTATIONS.values():
        if turn != Orientation():
            candidate = Candidate("positions", turn, centred.beam)
            found[candidate] = misfit(candidate, some)
    return _judge(found)


def beam_offset(exposures: Exposures, probe: Tensor, propagation: FarField | NearField) -> tuple[int, int]:
    """Rows and columns by which the direct beam lies off its place: where the mean frame is most like it.

    The amplitudes of the mean frame are correlated with those of the probe without an object, over the pixels
    in use. A near field has no direct beam: 0.
    """
    if not isinstance(propagation, FarField):
        return (0, 0)
    mask = exposures.mask if exposures.mask.ndim == 2 else exposures.mask.any(0)
    used = (~mask).to(probe.real)
    mean = exposures.counts.to(used).clamp_min(0).mean(0).sqrt() * used
    beam = wave_intensity(propagation.forward(probe))
    # sum over x of a(x) b(x - s), for all s at once
    shared = torch.fft.ifft2(torch.fft.fft2(mean) * torch.fft.fft2(beam.sqrt()).conj()).real
    seen = torch.fft.ifft2(torch.fft.fft2(used) * torch.fft.fft2(beam).conj()).real
    likeness = shared / seen.clamp_min(LEAST_SEEN * float(beam.sum())).sqrt()
    rows, columns = likeness.shape
    row, column = divmod(int(likeness.argmax()), columns)
    return (row + rows // 2) % rows - rows // 2, (column + columns // 2) % columns - columns // 2


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
    equals = sorted((c for c, d in rest.items() if not _clear(d)), key=lambda c: float(rest[c].mean()))
    undecided = () if best else tuple(equals)
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
    """Turn the frames about their direct beam, or the positions about the origin, and move the beam back."""
    if candidate.of == "positions":
        places = candidate.turn.places(exposures.position.numpy())
        exposures = exposures._replace(position=torch.from_numpy(places.copy()))
    else:
        centre = None
        if isinstance(propagation, FarField):
            centre = exposures.counts.shape[-1] // 2 if propagation.centred else 0

        def turn(images: Tensor) -> Tensor:
            return torch.from_numpy(candidate.turn.image(images.numpy(), centre=centre).copy())

        exposures = exposures._replace(counts=turn(exposures.counts), mask=turn(exposures.mask))
    if candidate.beam == (0, 0):
        return exposures
    back = [-offset for offset in candidate.beam]
    counts, mask = (torch.roll(v, back, (-2, -1)) for v in (exposures.counts, exposures.mask))
    return exposures._replace(counts=counts, mask=mask)
