"""Intensities averaged over particle size, as tables: for many particles at once, of any size and spread.

Sizes are Gaussian distributed and cut off at three standard deviations, as sasmodels does unless told
otherwise. An average of an intensity depends on x = q times the mean size and on the relative standard
deviation p alone. It is even and smooth in p, so a few Chebyshev polynomials hold it; along x it is
interpolated.

Letters: N particles, X points of x, K even polynomials of p. Averages are <F^2> / <F^2(0)>.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from nfphasing_bluesky.physics.particles.oriented import gaussian_sizes, moment
from nfphasing_bluesky.physics.saxs2d import disc_amplitude

X_MAX, POINTS = 64.0, 1600
LARGEST = 1 / 3
"""Relative standard deviation at which the smallest size is zero."""
_TERMS, _SIZES = 96, 80
_SERIES_BELOW = 0.1


def sphere_amplitude(x: Tensor) -> Tensor:
    """3 (sin x - x cos x) / x^3, 1 at 0."""
    small = x < _SERIES_BELOW
    y = torch.where(small, 1.0, x)
    return torch.where(small, 1 - x.square() / 10 + x.pow(4) / 280, 3 * (y.sin() - y * y.cos()) / y**3)


def slit_amplitude(x: Tensor) -> Tensor:
    """Sine of x over x: of a slit of half width 1."""
    return torch.sinc(x / pi)


def table(amplitude: Callable[[Tensor], Tensor], volume_power: int) -> Tensor:
    """(K, X) coefficients of the average of amplitude^2, weighted with size^(2 volume_power)."""
    angle = (2 * torch.arange(_TERMS, dtype=torch.float64) + 1) * (pi / (4 * _TERMS))
    sizes = gaussian_sizes(LARGEST * angle.cos(), _SIZES)
    x = torch.linspace(0, X_MAX, POINTS, dtype=torch.float64)
    weights = sizes.weights * sizes.values ** (2 * volume_power) / moment(sizes, 2 * volume_power)[:, None]
    values = torch.stack(
        [w @ amplitude(t[:, None] * x).square() for w, t in zip(weights, sizes.values, strict=True)]
    )
    even = 2 * torch.arange(_TERMS, dtype=torch.float64)
    transform = (even[:, None] * angle).cos() * torch.where(even > 0, 2, 1)[:, None] / _TERMS
    return transform @ values


def disc() -> Tensor:
    """Of the radius of a disc."""
    return table(disc_amplitude, 2)


def sphere() -> Tensor:
    """Of the radius of a sphere, or of both radii of an ellipsoid as one."""
    return table(sphere_amplitude, 3)


def slit() -> Tensor:
    """Of half a side of a rectangle."""
    return table(slit_amplitude, 1)


def of_spread(coefficients: Tensor, polydispersity: Tensor) -> Tensor:
    """(N, X) averages at every x, of relative standard deviations (N,) below `LARGEST`."""
    even = 2 * torch.arange(len(coefficients), dtype=torch.float64, device=polydispersity.device)
    angle = (polydispersity.double() / LARGEST).clamp(max=1 - 1e-9).acos()
    return (even * angle[:, None]).cos().to(coefficients) @ coefficients


def at(averages: Tensor, x: Tensor) -> Tensor:
    """(N, ...) averages (N, X) at x (N, ...), by cubic interpolation, even about 0; x up to `X_MAX`."""
    position = x * ((POINTS - 1) / X_MAX)
    cell = position.detach().floor().clamp(0, POINTS - 3)
    f = position - cell
    index = cell.long().flatten(1)
    a, b, c, d = (averages.gather(1, (index + shift).abs()).view_as(position) for shift in (-1, 0, 1, 2))
    return b + f * ((c - b) - (1 - f) * ((c - 2 * b + a) * (2 - f) + (d - 2 * c + b) * (1 + f)) / 6)
