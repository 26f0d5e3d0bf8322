"""The instrument's resolution where a forward model has none: how much it would have changed the curve."""

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from nfphasing_bluesky.core import CurveGeometry, Frame, Prediction
from nfphasing_bluesky.physics.saxs import smear

MOST = 1.0
"""Sum of squares of the change over sigma: a parameter may be off by the root of it, in its own errors."""

_REACH = 2.0


def left_out(frame: Frame, prediction: Prediction, sigma_floor: float) -> str:
    """Say whether a curve's resolution matters; empty where it does not, or is not known.

    The predicted curve is averaged over the resolution, and compared with itself in units of sigma. Points
    whose average reaches beyond the curve's ends are left out.

    Args:
        frame: (Q,) curve with sigma.
        prediction: of a model without resolution, on the points of the frame.
        sigma_floor: relative systematic error that is added to sigma.
    """
    geometry = frame.geometry
    if not isinstance(geometry, CurveGeometry) or geometry.dq_inv_angstrom is None or frame.sigma is None:
        return ""
    q, dq = geometry.q_inv_angstrom, np.nan_to_num(geometry.dq_inv_angstrom)
    inside = (dq > 0) & (q - _REACH * dq >= q[0]) & (q + _REACH * dq <= q[-1])
    inside &= frame.usable & np.isfinite(prediction.mean)
    if not inside.any():
        return ""
    there = np.isfinite(prediction.mean)
    curve = CubicSpline(q[there], prediction.mean[there])

    def model(at: Tensor) -> Tensor:
        return torch.from_numpy(curve(at.numpy()))

    seen = smear(model, torch.from_numpy(q[inside]), torch.from_numpy(dq[inside]), cut=_REACH)[0].numpy()
    mean = prediction.mean[inside]
    change = (seen - mean) / np.hypot(frame.sigma[inside], sigma_floor * np.abs(mean))
    if not np.sum(change**2) > MOST:
        return ""
    relative = float(np.median(dq[inside] / q[inside]))
    return (
        f"the resolution (dq/q {relative:.2g}) is not in this model, and changes the curve by up to "
        f"{np.abs(change).max():.2g} sigma: sizes come out too small, their spread too wide; measure with a "
        "finer one, or leave out the points with the widest dq"
    )
