"""Where the pixels of a detector look in grazing incidence, and the wave vectors that belong to them.

The sample's surface is the plane z = 0, the beam comes along x at the incidence angle, and a pixel sees what
leaves at the exit angle alpha over the surface and the azimuth phi in it:

    k_f = k (cos(alpha) cos(phi), cos(alpha) sin(phi), sin(alpha)).

What happens along z is computed at exit angles that are called levels, one a row of the detector; what
happens in the plane depends on the length of q_parallel almost alone.

Dimension letters: N samples, A levels, H rows, W columns, K nodes, T taps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nfphasing_bluesky.physics.chebyshev import even_matrix, even_nodes

_LOWEST = 1e-6
"""Sine of the exit angle that pixels below the horizon are computed at, before they are set dark."""


class Blend(NamedTuple):
    """Rows of pixels as sums of levels, where a row is not quite at one exit angle.

    Attributes:
        first: level that is the first tap of row 0; that of row h is h further on.
        weights: (T, H, W) of T levels in succession.
    """

    first: int
    weights: Tensor


@dataclass(frozen=True, eq=False)
class GrazingPixels:
    """H rows of W pixels; the first dimension is that of samples, or 1 where they share it.

    Args:
        wavelength_angstrom: of the beam.
        incidence_rad: (N,) of each sample; matrices are made once where it is one of all, (1,).
        level_rad: (N, A) exit angles of the levels; negative below the horizon.
        q_plane: components (N, H, W) of q along the beam and across it, 1/angstrom, float64.
        exit_sine: (N, H, W) sine of the exit angle; negative below the horizon.
        solid_angle: (N, H, W) of each pixel, or 0-d where it is not known.
        blend: of levels to rows; None for H levels that are the rows.
        dtype: of patterns; waves are computed in float64.
    """

    wavelength_angstrom: float
    incidence_rad: Tensor
    level_rad: Tensor
    q_plane: tuple[Tensor, Tensor]
    exit_sine: Tensor
    solid_angle: Tensor
    blend: Blend | None = None
    dtype: torch.dtype = torch.float32
    _kept: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        lowest = float(self.incidence_rad.detach().min())
        if not lowest > 0:
            raise ValueError(
                f"incidence_rad is {lowest:.3g}, expected above 0: a beam along the surface lights nothing"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.exit_sine.shape[1], self.exit_sine.shape[2]

    @property
    def above_horizon(self) -> Tensor:
        """(N, H, W) bool."""
        return self.exit_sine > 0

    def exit_rad(self) -> Tensor:
        """(N, H, W) exit angle of each pixel."""
        return self.exit_sine.asin()

    @property
    def levels(self) -> int:
        """A."""
        return self.level_rad.shape[1]

    @property
    def incoming_q(self) -> Tensor:
        """(N, 1) q = 2 k sin(incidence) at which the incoming wave has its vertical wave vector."""
        return 2 * wave_number(self.wavelength_angstrom) * self.incidence_rad.double().sin()[:, None]

    @property
    def outgoing_q(self) -> Tensor:
        """(N, A) the same of the outgoing wave; barely above 0 for levels below the horizon."""
        sine = self.level_rad.double().sin().clamp_min(_LOWEST)
        return 2 * wave_number(self.wavelength_angstrom) * sine

    @property
    def q_parallel(self) -> Tensor:
        """(N, H, W) length of q in the plane of the surface, 1/angstrom, in `dtype`."""
        return self._keep("q", 0, lambda: torch.hypot(*self.q_plane).to(self.dtype))

    @property
    def largest_q(self) -> float:
        """Of `q_parallel`."""
        return float(self._keep("top", 0, lambda: self.q_parallel.detach().max()))

    def q_nodes(self, count: int) -> Tensor:
        """(K,) lengths of q from which `spread` gives the values of all pixels."""
        return even_nodes(count).to(self.level_rad.device) * self.largest_q

    def spread(self, values: Tensor) -> Tensor:
        """(N, C, H, W) values at the pixels from (N, C, A, K) ones at `q_nodes`: smooth and even in q.

        Values fall as q^-4 by many orders; multiplied with what grows like that they keep their relative
        precision in float32.
        """
        count = values.shape[-1]
        growth = _growth(self.q_nodes(count) / self.largest_q).to(values)
        return self._spread(values * growth, self._keep("even", count, lambda: self._even(count)))

    def _even(self, count: int) -> Tensor:
        x = (self.q_parallel / self.largest_q).double().clamp_max(1.0)
        return (even_matrix(x, count) / _growth(x)[..., None]).to(self.dtype)

    def log_q_nodes(self, count: int) -> Tensor:
        """(K,) lengths of q, dense towards 0, from which `spread_logarithm` gives all pixels."""
        top = math.asinh(_DECADES)
        return torch.sinh(top * even_nodes(count).to(self.level_rad.device)) / _DECADES * self.largest_q

    def spread_logarithm(self, values: Tensor) -> Tensor:
        """(N, H, W) positive values at the pixels from (N, A, K) ones at `log_q_nodes`.

        For power laws that become constant towards q = 0: smooth in asinh(q / q_0).
        """
        count = values.shape[-1]
        logarithm = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        matrix = self._keep("log", count, lambda: self._logarithmic(count))
        return self._spread(logarithm[:, None], matrix)[:, 0].exp()

    def _logarithmic(self, count: int) -> Tensor:
        x = (self.q_parallel / self.largest_q).double().clamp_max(1.0)
        return even_matrix(torch.asinh(x * _DECADES) / math.asinh(_DECADES), count).to(self.dtype)

    def _spread(self, values: Tensor, matrix: Tensor) -> Tensor:
        """(N, C, H, W) of (N, C, A, K) values and the (N, H, W, K) weights of each sample, or of all."""
        if self.blend is None:
            return _by_row(values, matrix)
        first, weights = self.blend
        rows = self.shape[0]
        taps = [
            _by_row(values[:, :, first + t : first + t + rows], matrix) * w for t, w in enumerate(weights)
        ]
        return torch.stack(taps).sum(0)

    def _keep(self, name: str, count: int, make: Callable[[], Tensor]) -> Tensor:
        if torch.is_grad_enabled() and self.q_plane[0].requires_grad:
            return make()
        if (name, count) not in self._kept:
            self._kept[name, count] = make()
        return self._kept[name, count]


def _by_row(values: Tensor, matrix: Tensor) -> Tensor:
    n, channels, rows, nodes = values.shape
    if len(matrix) > 1:
        return (values.transpose(1, 2) @ matrix.transpose(2, 3)).transpose(1, 2)
    by_row = values.permute(2, 0, 1, 3).reshape(rows, n * channels, nodes)
    return (by_row @ matrix[0].transpose(1, 2)).view(rows, n, channels, -1).permute(1, 2, 0, 3)


_DECADES = 1500.0
"""Largest q over the one below which nodes are spaced evenly."""
_FALL = 12.0


def _growth(x: Tensor) -> Tensor:
    """About the inverse of a Porod law over x = q / q_max: a polynomial, so that nothing smooth is lost."""
    return (1 + (_FALL * x).square()).square()


def wave_number(wavelength_angstrom: float) -> float:
    """2 pi / lambda, 1/angstrom."""
    return 2 * math.pi / wavelength_angstrom


def wave_up(reflected: Tensor, down: Tensor) -> Tensor:
    """Amplitude of the upward wave where the downward one has gained the factor `down` since the upper edge.

    0 where nothing comes down any more: in thick absorbing layers both underflow.
    """
    gone = down.abs() < _GONE
    return torch.where(gone, 0.0, reflected / torch.where(gone, 1.0, down))


_GONE = 1e-150


def angular_pixels(
    wavelength_angstrom: float,
    incidence_rad: Tensor | float,
    exit_rad: Tensor,
    azimuth_rad: Tensor,
    dtype: torch.dtype = torch.float32,
) -> GrazingPixels:
    """Pixels at exit angles (H,) and azimuths (W,), increasing, for incidence angles (N,) or one of all."""
    incidence = torch.as_tensor(incidence_rad, dtype=torch.float64).reshape(-1)
    alpha, phi = exit_rad.double()[:, None], azimuth_rad.double()
    k = wave_number(wavelength_angstrom)
    along = k * (alpha.cos() * phi.cos() - incidence.cos()[:, None, None])
    across = (k * alpha.cos() * phi.sin()).expand_as(along)
    size = _steps(alpha[:, 0])[:, None] * _steps(phi) * alpha.cos()
    sine = alpha.sin().expand(1, -1, len(phi))
    return GrazingPixels(
        wavelength_angstrom, incidence, alpha.T, (along, across), sine, size[None], dtype=dtype
    )


def _steps(angles: Tensor) -> Tensor:
    """Width of bins with these centres; 1 for a single one."""
    return torch.gradient(angles)[0].abs() if len(angles) > 1 else torch.ones_like(angles)
