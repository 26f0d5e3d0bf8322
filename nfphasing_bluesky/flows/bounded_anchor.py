"""Coordinates around an anchor that end where the prior does.

A Gaussian is a poor guide far beyond its width: a narrow one in the wrong minimum has the truth a hundred of
its widths away, and its tilted axes lead out of the prior. In such straight coordinates a flow put a third of
its draws of core-shell spheres at the edges of the box. Here, in the order of the coordinates,

    m_j = location_j + sum_{i<j} factor_ji s(z_i),  s(z) = 3 tanh(z / 3),  z_j = (y_j - m_j) / factor_jj,
    w_j = 2 R asinh(z_j) / (asinh((R - m_j) / factor_jj) + asinh((R + m_j) / factor_jj)).

Near the anchor w is the Gaussian's coordinate, times a factor; further out it counts decades, the tilt no
longer matters, and the prior, standard normal in y, fills an interval of length 2 R, however narrow the
anchor is.
"""

import math

import torch
from torch import Tensor

from nfphasing_bluesky.flows.anchor import Anchor
from nfphasing_bluesky.flows.transforms import full_precision

REACH = 5.0
STRAIGHT = 3.0
FURTHEST = 3.5
NARROWEST = 1e-6


class BoundedAnchor(Anchor):
    """An anchor whose coordinates are those of this module."""

    def standardise(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates w (..., B, D) of y (..., B, D), and log|det dw/dy| (..., B)."""
        with full_precision(y):
            width = self._width(y)
            z: list[Tensor] = []
            middle: list[Tensor] = []
            tilts: list[Tensor] = []
            for j in range(y.shape[-1]):
                middle.append(self._middle(j, tilts, y))
                z.append((y[..., j] - middle[j]) / width[:, j])
                tilts.append(_tilt(z[j]))
            pulls, span = torch.stack(z, -1), _span(torch.stack(middle, -1), width)
            return 2 * REACH / span * torch.asinh(pulls), -_log_stretch(pulls, span, width)

    def restore(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `standardise`."""
        with full_precision(z):
            width = self._width(z)
            pulls: list[Tensor] = []
            tilts: list[Tensor] = []
            found, spans = [], []
            for j in range(z.shape[-1]):
                middle = self._middle(j, tilts, z)
                spans.append(_span(middle, width[:, j]))
                pulls.append(torch.sinh(z[..., j] * spans[j] * (0.5 / REACH)))
                tilts.append(_tilt(pulls[j]))
                found.append(middle + width[:, j] * pulls[j])
            stretch = _log_stretch(torch.stack(pulls, -1), torch.stack(spans, -1), width)
            return torch.stack(found, -1), stretch

    def _width(self, y: Tensor) -> Tensor:
        return self.factor.to(y).diagonal(dim1=-2, dim2=-1).clamp_min(NARROWEST)

    def _middle(self, j: int, tilts: list[Tensor], y: Tensor) -> Tensor:
        """(..., B) where coordinate j is expected, given the tilts s(z) of those before it."""
        middle = self.location[:, j].to(y).expand(y.shape[:-1])
        for i, tilt in enumerate(tilts):
            middle = middle + self.factor[:, j, i].to(y) * tilt
        return middle.clamp(-FURTHEST, FURTHEST)


def _tilt(z: Tensor) -> Tensor:
    return STRAIGHT * torch.tanh(z / STRAIGHT)


def _span(middle: Tensor, width: Tensor) -> Tensor:
    return torch.asinh((REACH - middle) / width) + torch.asinh((REACH + middle) / width)


def _log_stretch(z: Tensor, span: Tensor, width: Tensor) -> Tensor:
    """(..., B) log|det dy/dw|."""
    each = span.log() - math.log(2 * REACH) + 0.5 * torch.log1p(z.square()) + width.log()
    return each.sum(-1)
