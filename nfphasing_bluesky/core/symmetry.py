"""Trivial differences between draws, taken away before they are compared: phase, shift, inversion twin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import SettingsError

Array = NDArray[Any]
EDGE = 0.05
SHIFTS = ("none", "circular", "bounded")


@dataclass(frozen=True)
class Symmetry:
    """Alignment of (S, *shape) draws for `find_modes`: which changes of u leave the data alone.

    Each draw is brought to the nearest of a few references, the draws least like one another, which are
    brought to each other first: draws of one mode meet, and draws of other modes are not torn apart by a
    reference that they have nothing in common with. A posterior of more modes than `references` wants more;
    draws that are mostly noise, of no common phase or place, cannot be aligned with one another.

    Args:
        phase: the global phase of complex draws, the sign of real ones.
        shift: by whole pixels: `circular`, or `bounded`, which moves no pixel above 5 % of a draw's highest
            out of the array and fills with zeros.
        twin: the inversion twin conj(u(-r)), too; off because a twin is another answer, to be seen.
        references: how many at most.
    """

    phase: bool = False
    shift: Literal["none", "circular", "bounded"] = "none"
    twin: bool = False
    references: int = 6

    def __post_init__(self) -> None:
        if self.shift not in SHIFTS:
            raise SettingsError(f"shift is {self.shift!r}; expected one of {', '.join(SHIFTS)}")
        if self.references < 1:
            raise SettingsError(f"references is {self.references}; expected 1 or more")

    def __call__(self, draws: Array) -> Array:
        """Aligned copy of (S, *shape) draws."""
        draws = np.asarray(draws)
        norm = np.sum(_flat(np.abs(draws) ** 2), axis=1)
        return self._aligned(draws, int(np.argsort(norm)[norm.size // 2]))

    def _aligned(self, draws: Array, first: int) -> Array:
        """Aligned copy, one of the draws where it was."""
        if self.shift == "bounded":
            draws = _pad(draws)
        spectra = _fft(draws) if self.shift != "none" else None
        norm = np.sqrt(np.sum(_flat(np.abs(draws) ** 2), axis=1))
        aligned = self._match(draws, spectra, draws[first])
        similarity = self._similarity(aligned, draws[first], norm)
        for _ in range(self.references - 1):
            reference = aligned[int(np.argmin(similarity))]
            other = self._match(draws, spectra, reference)
            score = self._similarity(other, reference, norm)
            closer = score > similarity
            if not closer.any():
                break
            aligned[closer], similarity[closer] = other[closer], score[closer]
        return _crop(aligned) if self.shift == "bounded" else aligned

    def together(self, draws: Array, groups: NDArray[np.integer]) -> Array:
        """Aligned copy of (S, *shape) draws, those of one of the (S,) groups moved by the same shift.

        It is their mean that is aligned: noise moves no draw away from the others of its group. The largest
        group stays where it is. Phases and twins are chosen draw by draw.
        """
        labels, member, size = np.unique(groups, return_inverse=True, return_counts=True)
        if self.shift == "none" or self.phase or self.twin:
            return self(draws)
        draws = np.asarray(draws)
        means = np.stack([draws[member == k].mean(axis=0) for k in range(len(labels))])
        lags = self._lags(means, self._aligned(means, int(np.argmax(size))))
        moved = _pad(draws) if self.shift == "bounded" else draws.copy()
        for k, lag in enumerate(lags):
            moved[member == k] = np.roll(moved[member == k], lag, axis=tuple(range(1, draws.ndim)))
        return _crop(moved) if self.shift == "bounded" else moved

    def _lags(self, draws: Array, moved: Array) -> list[tuple[int, ...]]:
        """Shift of each of (K, *shape) draws that makes it what it is after it was moved."""
        if self.shift == "bounded":
            draws, moved = _pad(draws), _pad(moved)
        lags = []
        for draw, after in zip(_fft(draws), _fft(moved), strict=True):
            product = draw.conj() * after
            if np.iscomplexobj(draws):
                score = np.fft.ifftn(product).real
            else:
                score = np.fft.irfftn(product, s=draws.shape[1:], axes=range(draws.ndim - 1))
            lags.append(tuple(int(i) for i in np.unravel_index(np.argmax(score), score.shape)))
        return lags

    def _similarity(self, draws: Array, reference: Array, norm: Array) -> NDArray[np.floating]:
        """(S,) cosine of the angle between aligned draws and a reference."""
        overlap = (_flat(draws) @ reference.ravel().conj()).real
        return overlap / np.maximum(norm * np.linalg.norm(reference), 1e-300)

    def _match(self, draws: Array, spectra: Array | None, reference: Array) -> Array:
        """Draws, or their twins, after the phase and shift that overlap most with the reference."""
        best, overlap = self._move(draws, spectra, reference)
        if self.twin:
            turned = _twin(draws)
            other, score = self._move(turned, None if spectra is None else _fft(turned), reference)
            best[score > overlap] = other[score > overlap]
        return best

    def _move(self, draws: Array, spectra: Array | None, reference: Array) -> tuple[Array, Array]:
        if spectra is None:
            moved, overlap = draws.copy(), _flat(draws) @ reference.ravel().conj()
        else:
            moved, overlap = self._shifted(draws, spectra, reference)
        if self.phase:
            size = np.abs(overlap)
            turn = np.where(size > 0, np.conj(overlap), 1) / np.where(size > 0, size, 1)
            moved = moved * turn.reshape(-1, *[1] * (draws.ndim - 1)).astype(draws.dtype)
            return moved, size
        return moved, overlap.real

    def _shifted(self, draws: Array, spectra: Array, reference: Array) -> tuple[Array, Array]:
        """Draws at the lag of the highest cross-correlation with the reference, and its value there."""
        shape = draws.shape[1:]
        product = spectra.conj() * _fft(reference[None])
        axes = tuple(range(1, draws.ndim))
        # value at lag l: sum over x of conj(draw(x - l)) reference(x)
        correlation: Array
        if np.iscomplexobj(draws):
            correlation = np.fft.ifftn(product, axes=axes).conj()
        else:
            correlation = np.fft.irfftn(product, s=shape, axes=axes)
        score = np.abs(correlation) if self.phase else correlation.real
        if self.shift == "bounded":
            score = np.where(_inside(draws), score, -np.inf)
        where = np.argmax(_flat(score), axis=1)
        lags = np.stack(np.unravel_index(where, shape), axis=1)
        moved = np.empty_like(draws)
        for draw, lag, out in zip(draws, lags, moved, strict=True):
            out[...] = np.roll(draw, tuple(lag), axis=tuple(range(len(shape))))
        return moved, np.take_along_axis(_flat(correlation), where[:, None], axis=1)[:, 0]


def _flat(draws: Array) -> Array:
    return draws.reshape(draws.shape[0], -1)


def _fft(draws: Array) -> Array:
    axes = tuple(range(1, draws.ndim))
    transform: Callable[..., Array] = np.fft.fftn if np.iscomplexobj(draws) else np.fft.rfftn
    return transform(draws, axes=axes)


def _twin(draws: Array) -> Array:
    return np.flip(draws, axis=tuple(range(1, draws.ndim))).conj()


def _pad(draws: Array) -> Array:
    """Twice the pixels along each axis, zeros beyond the first half."""
    return np.pad(draws, [(0, 0), *((0, n) for n in draws.shape[1:])])


def _crop(draws: Array) -> Array:
    return draws[(slice(None), *(slice(n // 2) for n in draws.shape[1:]))]


def _inside(draws: Array) -> NDArray[np.bool_]:
    """(S, *shape) which lags keep padded draws within the first half along every axis."""
    size = np.abs(draws)
    bright = size > EDGE * size.max(axis=tuple(range(1, draws.ndim)), keepdims=True)
    allowed = np.ones(draws.shape, dtype=bool)
    for axis in range(1, draws.ndim):
        n = draws.shape[axis] // 2
        others = tuple(a for a in range(1, draws.ndim) if a != axis)
        line = bright.any(axis=others) if others else bright
        first = np.where(line.any(axis=1), line.argmax(axis=1), 0)
        last = np.where(line.any(axis=1), 2 * n - 1 - line[:, ::-1].argmax(axis=1), n - 1)
        lag = (np.arange(2 * n) + n) % (2 * n) - n
        keeps = (first[:, None] + lag >= 0) & (last[:, None] + lag < n)
        allowed &= keeps.reshape(-1, *(2 * n if a == axis else 1 for a in range(1, draws.ndim)))
    return allowed
