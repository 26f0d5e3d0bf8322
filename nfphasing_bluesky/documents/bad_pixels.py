"""Pixels of a detector that must not be used: those that are said, and those that show themselves."""

import logging

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.documents.beam_stop import dark_regions
from nfphasing_bluesky.documents.gaps import LEAST_COUNTS, dead_lines

log = logging.getLogger(__name__)

LEAST_TOP = 16.0
"""Largest count of a frame below which chance makes pixels equal."""


def left_out(
    counts: NDArray, mask: NDArray | None = None, saturation: float | None = None, where: str = "frame"
) -> NDArray[np.bool_] | None:
    """(H, W) True where a frame says or is told that a pixel is bad; None where none could be.

    That is where the mask is not zero, where an unsigned image has its largest value, and from `saturation`
    counts on.

    Raises:
        FrameError: the mask has another shape.
    """
    if mask is not None and mask.shape != counts.shape:
        raise FrameError(
            f"{where}: mask {mask.shape} does not match the frame {counts.shape}; pass a mask of its "
            "shape or check the ROI"
        )
    bad = [] if mask is None else [mask != 0]
    if counts.dtype.kind == "u":
        bad.append(counts == np.iinfo(counts.dtype).max)
    if saturation is not None:
        bad.append(counts >= saturation)
    return np.logical_or.reduce(bad) if bad else None


def plateau(counts: NDArray, bad: NDArray[np.bool_] | None) -> tuple[float, int] | None:
    """Largest count where so many pixels share it that the detector must end there, and how many; or None.

    They are more than four beyond those of one count within the standard deviation below it, and no more than
    half of the frame. Values that are no whole numbers have no such end.

    Args:
        counts: (H, W).
        bad: (H, W) True = not looked at.
    """
    seen = counts if bad is None else counts[~bad]
    top = float(np.max(seen, initial=0))
    if not top >= LEAST_TOP or top != round(top):
        return None
    number = int(np.count_nonzero(seen == top))
    if not 4 <= number <= seen.size / 2:
        return None
    reach = np.sqrt(top)
    below = np.count_nonzero((seen < top) & (seen >= top - reach)) / reach
    return (top, number) if number >= 4 + below else None


class BadPixels:
    """Those of one detector, found in its counts frame by frame; what nobody named is said once.

    Besides what `left_out` knows these are lines of zeros between lines that count, as the first frame with
    light has them, in patterns also other regions of zeros where everything around counts, and pixels that
    share the largest count.

    Args:
        where: what the log calls their source.
        saturation: counts from which a pixel is not believed, where that is known.
        pattern: frames are small-angle patterns, which may have a minimum as thin as one line: two side by
            side make a gap, and a beam stop may be there.
        surface: frames are of a surface, whose shadow never counts: gaps are left to those who know where its
            horizon is (`physics.grazing.grazing_frames`).
    """

    def __init__(
        self, where: str, saturation: float | None = None, *, pattern: bool = False, surface: bool = False
    ) -> None:
        self._where, self._saturation = where, saturation
        self._pattern, self._surface = pattern, surface
        self._gaps: NDArray[np.bool_] | None = None
        self._looked = self._said = False

    def of(
        self, counts: NDArray, mask: NDArray | None = None, *, counted: bool = True
    ) -> NDArray[np.bool_] | None:
        """(H, W) True = not used, of a frame and what is said to be bad in it; None where nothing is.

        Args:
            counts: (H, W).
            mask: (H, W) not 0 = not used.
            counted: they are counts, and no intensities with a sigma of their own.
        """
        bad = left_out(counts, mask, self._saturation, self._where)
        if not counted:
            return bad
        found = [] if bad is None else [bad]
        if counts.dtype.kind == "f":
            bad = _either(bad, ~np.isfinite(counts))
        if not (self._looked or self._surface):
            self._look(counts, bad)
        if self._gaps is not None and self._gaps.shape == counts.shape:
            found.append(self._gaps)
        if (end := plateau(counts, bad)) is not None:
            found.append(counts >= end[0])
            self._say(*end)
        return np.logical_or.reduce(found) if found else None

    def _say(self, top: float, number: int) -> None:
        if not self._said:
            log.warning(
                "%s: %d pixels have the largest count, %g, and hardly any are just below: saturated, now "
                "masked; saturation=%g beside the geometry says so, and a mask",
                *(self._where, number, top, top),
            )
        self._said = True

    def _look(self, counts: NDArray, bad: NDArray[np.bool_] | None) -> None:
        light = np.clip(counts if bad is None else np.where(bad, 0, counts), 0, None)
        self._looked = bool(light.sum(dtype=np.float64) > LEAST_COUNTS * max(counts.shape))
        dead, words = dead_lines(counts[None], bad, 2 if self._pattern else 1)
        if words:
            self._looked, self._gaps = True, dead
            log.warning("%s: %s never count, between lines that do: a gap, now masked", self._where, words)
        dark, regions = dark_regions(counts, _either(bad, dead)) if self._pattern else (dead, "")
        if regions:
            self._looked, self._gaps = True, dead | dark
            log.warning("%s: %s never count, amid pixels that do: dark, now masked", self._where, regions)


def _either(one: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return other if one is None else one | other
