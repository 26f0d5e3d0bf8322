"""The upper row of a figure of a small-angle pattern: measured, predicted and residual over qx and qy."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from nfphasing_bluesky.core import DetectorGeometry, Frame, PlaneGeometry, Posterior, plane_of

Extent = tuple[float, float, float, float]

_DIM = 0.5
"""Per cent of the brighter pixels that may lie below the colour scale."""
_DECADES = 6.0


def is_pattern(frame: Frame) -> bool:
    """Return whether a frame is over q."""
    return isinstance(frame.geometry, PlaneGeometry | DetectorGeometry)


def draw_pattern(axes: NDArray, frame: Frame, posterior: Posterior) -> None:
    """Draw a pattern, its prediction on the same logarithmic scale, and their difference in sigma.

    qx grows to the right and qy upwards, whichever way the rows of the frame run, so that azimuths turn
    counter-clockwise. Counts bring no sigma: the root of the prediction is theirs.
    """
    qx, qy = _maps(frame)
    measured = np.where(frame.usable, frame.intensity, np.nan)
    if frame.sigma is None:
        measured[measured < 0] = np.nan  # marks of gaps
    fit = posterior.prediction.mean
    sigma = np.sqrt(np.clip(fit, 1e-30, None)) if frame.sigma is None else frame.sigma
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = (measured - fit) / sigma
    finite = np.abs(residual[np.isfinite(residual)])
    reach = max(4.0, float(np.quantile(finite, 0.999))) if finite.size else 4.0
    name = "(I − fit)/√fit" if frame.sigma is None else "(I − fit)/σ"
    unit = "I (counts)" if frame.sigma is None else _intensity(frame)
    bright = _log_scale(measured, fit)
    _draw(axes[0], measured, qx, qy, "measured", unit, bright, "viridis")
    _draw(axes[1], fit, qx, qy, "posterior prediction", unit, bright, "viridis")
    _draw(axes[2], residual, qx, qy, "residual", name, Normalize(-reach, reach), "RdBu_r")


def _intensity(frame: Frame) -> str:
    return "I (cm⁻¹)" if getattr(frame.geometry, "absolute", False) else "I (arb. units)"


def _maps(frame: Frame) -> tuple[NDArray, NDArray]:
    geometry = frame.geometry
    if isinstance(geometry, DetectorGeometry):
        height, width = frame.intensity.shape
        geometry = plane_of(geometry, (height, width))
    assert isinstance(geometry, PlaneGeometry)  # noqa: S101 - is_pattern has checked it
    return geometry.maps()


def _log_scale(measured: NDArray, fit: NDArray) -> LogNorm:
    positive = measured[measured > 0]
    if not positive.size:
        positive = np.abs(fit[np.isfinite(fit)]) + 1e-30
    low, high = np.percentile(positive, [_DIM, 100])
    low = max(float(low), float(high) * 10**-_DECADES)
    return LogNorm(low, max(float(high), 1.001 * low))


def _draw(
    axes: Axes,
    image: NDArray,
    qx: NDArray,
    qy: NDArray,
    title: str,
    label: str,
    scale: Normalize,
    colours: str,
) -> None:
    shown, extent = upright(image, qx, qy)
    if isinstance(scale, LogNorm):
        shown = np.where(np.isfinite(shown), np.maximum(shown, scale.vmin or 0.0), np.nan)
    axes.set_facecolor("#bdbdbd")
    drawn = axes.imshow(
        shown, cmap=colours, norm=scale, origin="upper", extent=extent, interpolation="nearest"
    )
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("qx (Å⁻¹)")
    axes.set_ylabel("qy (Å⁻¹)")
    axes.ticklabel_format(style="sci", scilimits=(-2, 3))
    axes.figure.colorbar(drawn, ax=axes, label=label, shrink=0.9)


def upright(image: NDArray, qx: NDArray, qy: NDArray) -> tuple[NDArray, Extent]:
    """An image with qx to the right and qy upwards, and the outer edges of its pixels.

    Args:
        image: (H, W).
        qx: (H, W) of every pixel.
        qy: (H, W).
    """
    height, width = image.shape
    along, across = qx[height // 2], qy[:, width // 2]
    if along[-1] < along[0]:
        image, along = image[:, ::-1], along[::-1]
    if across[-1] > across[0]:
        image, across = image[::-1], across[::-1]
    half_x = 0.5 * (along[-1] - along[0]) / max(1, width - 1)
    half_y = 0.5 * (across[0] - across[-1]) / max(1, height - 1)
    left, right = float(along[0] - half_x), float(along[-1] + half_x)
    return image, (left, right, float(across[-1] - half_y), float(across[0] + half_y))
