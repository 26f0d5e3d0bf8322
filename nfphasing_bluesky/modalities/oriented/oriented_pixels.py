"""Predicted patterns at the pixels of a frame: bins are what is compared, pixels are what is shown."""

from math import pi

import numpy as np
import torch
from torch import Tensor

from nfphasing_bluesky.core import Prediction
from nfphasing_bluesky.modalities.oriented import polar


def at_pixels(
    qx: np.ndarray,
    qy: np.ndarray,
    q_top: float,
    coefficients: Tensor,
    background: float,
    axis: float,
    bins: Prediction,
) -> Prediction:
    """Mean pattern at every pixel, with the relative band of the bin that the pixel is in.

    Args:
        qx: (H, W) 1/angstrom.
        qy: (H, W).
        q_top: modulus of the last ring's end; pixels beyond it are NaN.
        coefficients: (3 R, 2 K) of cos(2 k azimuth) and of sin(2 k azimuth) at `polar.moduli`.
        background: flat.
        axis: (R, A) bins count azimuths from here, rad.
        bins: mean and band (R, A).
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)).flatten() for v in (qx, qy))
    rho = torch.hypot(x, y) / q_top * polar.RINGS
    inside = (rho <= polar.RINGS * (1 + 1e-9)).nonzero()[:, 0]
    ring = rho[inside].long().clamp_max(polar.RINGS - 1)
    azimuth = torch.atan2(y[inside], x[inside])
    mean = torch.full_like(x, torch.nan)
    order = ring.argsort()
    rows = coefficients.double().view(polar.RINGS, 3, -1)
    for r, chosen in enumerate(order.split(torch.bincount(ring, minlength=polar.RINGS).tolist())):
        nodes = polar.radial_weights(rho[inside[chosen]] - r)
        values = _waves(azimuth[chosen], rows.shape[2] // 2) @ rows[r].T
        mean[inside[chosen]] = (values * nodes).sum(1) + background
    sector = ((azimuth - axis).remainder(pi) * (polar.SECTORS / pi)).long().clamp_max(polar.SECTORS - 1)
    found = mean.numpy()
    band = []
    for edge in (bins.lower, bins.upper):
        ratio = np.divide(edge, bins.mean, out=np.ones_like(edge), where=bins.mean > 0)
        moved = found.copy()
        moved[inside.numpy()] *= ratio[ring.numpy(), sector.numpy()]
        band.append(moved.reshape(qx.shape).astype(np.float32))
    return Prediction(found.reshape(qx.shape).astype(np.float32), *band)


def _waves(azimuth: Tensor, count: int) -> Tensor:
    """(P, 2 K) cosines, then sines, of even multiples of azimuths (P,)."""
    phase = azimuth[:, None] * (2 * torch.arange(count, dtype=azimuth.dtype))
    return torch.cat([phase.cos(), phase.sin()], 1)
