"""Frames in grazing incidence summed over a grid of exit angles and lengths of q in the plane.

Counts are added up, both sides of the plane of incidence together, so that they stay counts; what is masked,
a gap, below the horizon or close to the plane of incidence is left out. What isotropic particles scatter
depends on these two coordinates alone. Rows of bins say at which exit angles their pixels are, columns at
which q: means and spreads, pixels' own sizes included, so that a gap through a row of bins moves its mean
instead of spoiling it.

Dimension letters: H rows of bins, row 0 below, W columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, GrazingGeometry
from nfphasing_bluesky.physics.grazing.grazing import wave_number
from nfphasing_bluesky.physics.grazing.grazing_frames import LitPixels, lit_pixels

FloatArray = NDArray[np.floating]
CROWDED = (3.0, 5.0)
"""How much denser the first rows and columns are than even ones, about: edges and peaks lie there."""
LEAST_SHARE = 0.5
"""Of the pixels that a bin's row and column let expect; a bin with fewer does not sit where they say."""
MOST_OFF = 0.2
"""Of half a bin's width, by which the mean place of its pixels may be off that of its row or column."""


@dataclass(frozen=True, eq=False)
class GrazingBins:
    """One frame.

    Args:
        counts: (H, W) sums over the pixels of a bin.
        variance: (H, W) of the sums, or None for counts.
        pixels: (H, W) of each bin; 0 for bins that are not used.
        exit_mean, exit_half: (H,) mean exit angle of a row's pixels, and half the width of an even spread
            with their variance, rad.
        q_mean, q_half: (W,) the same of the lengths of q of a column's pixels, 1/angstrom.
        wave_number: of the beam, 1/angstrom.
        incidence_rad: nominal.
    """

    counts: FloatArray
    variance: FloatArray | None
    pixels: FloatArray
    exit_mean: FloatArray
    exit_half: FloatArray
    q_mean: FloatArray
    q_half: FloatArray
    wave_number: float
    incidence_rad: float


def crowded_places(count: int, crowded: float) -> FloatArray:
    """(count,) places from 0 to 1, even in the inverse hyperbolic sine: denser at first."""
    places: FloatArray = np.sinh(np.linspace(0, np.arcsinh(crowded), count)) / crowded
    return places


def binned(frame: Frame, shape: tuple[int, int]) -> GrazingBins:
    """Sum a frame over (H, W) bins from the lowest to the highest exit angle and q that it sees.

    Args:
        frame: (H', W') counts with a GrazingGeometry; negative pixels are gaps.
        shape: (H, W).

    Raises:
        FrameError, GeometryError: as of `grazing_frames.cuts_of`.
    """
    seen = lit_pixels(frame)
    geometry = frame.geometry
    assert isinstance(geometry, GrazingGeometry)  # noqa: S101  `lit_pixels` has checked it
    places = seen.maps.exit_rad[seen.lit], seen.maps.q[seen.lit]
    sizes = seen.maps.pixel_rad, seen.maps.pixel_q
    rows, columns = (_along(*v) for v in zip(places, sizes, shape, CROWDED, strict=True))
    index = rows.index * shape[1] + columns.index
    counts, variance, pixels = (_sums(index, values, shape) for values in _values(seen))
    share = pixels.sum(1, keepdims=True) * pixels.sum(0) / pixels.sum()
    used = (pixels >= LEAST_SHARE * share) & _at_home(index, places, pixels, rows, columns)
    own = None if seen.poisson else np.where(used, variance, 0.0)
    return GrazingBins(
        np.where(used, counts, 0.0),
        own,
        np.where(used, pixels, 0.0),
        rows.mean,
        rows.half,
        columns.mean,
        columns.half,
        wave_number(1e10 * geometry.wavelength_m),
        geometry.incidence_rad,
    )


def _at_home(
    index: NDArray[np.int64],
    places: tuple[FloatArray, FloatArray],
    pixels: FloatArray,
    rows: "_Axis",
    columns: "_Axis",
) -> NDArray[np.bool_]:
    """(H, W) bins whose pixels are where their row and column are, on average."""
    exits, q = (_sums(index, place, pixels.shape) / np.maximum(pixels, 1) for place in places)
    off = np.abs(exits - rows.mean[:, None]), np.abs(q - columns.mean)
    return (off[0] <= MOST_OFF * rows.half[:, None]) & (off[1] <= MOST_OFF * columns.half)


def _values(seen: LitPixels) -> tuple[FloatArray, FloatArray, FloatArray]:
    lit = seen.lit
    return seen.counts[lit], seen.variance[lit], np.ones(int(lit.sum()))


def _sums(index: NDArray[np.int64], values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    return np.bincount(index, values, shape[0] * shape[1]).astype(np.float64).reshape(shape)


@dataclass(frozen=True, eq=False)
class _Axis:
    """Bins along one coordinate: (P,) index of each pixel's, mean and half width of each."""

    index: NDArray[np.int64]
    mean: FloatArray
    half: FloatArray


def _along(place: FloatArray, size: float, count: int, crowded: float) -> _Axis:
    low, high = float(place.min()) - 0.5 * size, float(place.max()) + 0.5 * size
    edges = low + (high - low) * crowded_places(count + 1, crowded)
    index = np.clip(np.searchsorted(edges, place, side="right") - 1, 0, count - 1)
    number = np.bincount(index, minlength=count)
    one = np.maximum(number, 1)
    mean = np.where(number > 0, np.bincount(index, place, count) / one, 0.5 * (edges[1:] + edges[:-1]))
    square = np.bincount(index, (place - mean[index]) ** 2, count) / one + size**2 / 12
    return _Axis(index, mean, np.sqrt(3 * square))
