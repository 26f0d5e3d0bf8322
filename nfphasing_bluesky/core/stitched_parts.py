"""Patches of an object that are connected, their phases turned to match: sums that grow with every patch."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.posterior import Posterior, Verdict
from nfphasing_bluesky.core.windows import Window, around, common, overlap

LEAST_OVERLAP = 0.01
"""Share of the weight of the lesser of a patch and a component that must lie on the other for the two to be
connected: with less, the phase between them would come from pixels that the beam hardly lit."""

DARKEST = 1e-6
"""Share of the brightest light that every pixel of a patch counts for, so that all of it is shown."""

_LINEAR = 0.04
"""Variance below which exp(i phase - absorption) is linear in its noise, so that scatters can be compared."""

LEAST_COUNTS = 0.1
"""Expected photons from which a pixel counts for the spread of predictions, as it does for a misfit."""

_BAND = 4.0
"""Standard deviations in a central band of 95 %."""

_REAL = ("weight", "light", "noise", "squares", "doubted")


class _Link(NamedTuple):
    weight: float
    phasor: complex


@dataclass
class Part:
    """Patches that are connected, T with weights w and variances v, in arrays that grow.

    `sum` is sum w T, `weight` sum w, `light` sum w v, `noise` sum w^2 v, `squares` sum w^2, `doubted` sum w
    of ALARM patches; `scatter` is how far patches were from the mean before them, `expected` what that would
    be if none had anything in common.
    """

    sum: NDArray[np.complex128]
    weight: NDArray[np.float64]
    light: NDArray[np.float64]
    noise: NDArray[np.float64]
    squares: NDArray[np.float64]
    doubted: NDArray[np.float64]
    box: Window
    used: Window
    frames: int = 1
    scatter: float = 0.0
    expected: float = 0.0

    @property
    def gauge(self) -> complex:
        """Phasor that makes the weighted mean real and positive."""
        return _unit(complex(self.sum.sum())).conjugate()

    def within(self, window: Window) -> tuple[slice, slice]:
        """Where a window lies in the arrays."""
        return overlap(self.box, window)

    def std(self, copies: int) -> NDArray[np.float64]:
        """Of the mean, over its modulus; 0 where no patch lies. `copies` patches see each frame."""
        weight = np.where(self.weight > 0, self.weight, 1.0)
        chi = self.scatter / self.expected if self.expected > 0 else 1.0
        patches = weight**2 / np.where(self.weight > 0, self.squares, 1.0)
        apart = np.minimum(patches, copies) * self.noise / weight**2
        return np.sqrt(max(1 - chi, 0.0) * self.light / weight + chi * apart)

    def add(self, other: "Part", phasor: complex) -> None:
        """Add another part, turned by `phasor`."""
        used = around([self.used, other.used])
        if common(self.box, used) != used:
            self._grow(used)
        here, there = self.within(other.used), other.within(other.used)
        self.sum[here] += phasor * other.sum[there]
        for name in _REAL:
            getattr(self, name)[here] += getattr(other, name)[there]
        self.used, self.frames = used, self.frames + other.frames
        self.scatter, self.expected = self.scatter + other.scatter, self.expected + other.expected

    def compare(self, patch: "Part", phasor: complex) -> None:
        """Note how far a patch, turned by `phasor`, is from the mean where both are well known."""
        window = common(self.used, patch.used)
        here, there = self.within(window), patch.within(window)
        v, w = self.weight[here], patch.weight[there]
        lit = (v > 0) & (w > 0)
        v, w = v[lit], w[lit]
        variance = patch.light[there][lit] / w + self.noise[here][lit] / v**2
        mean, other = self.sum[here][lit] / v, phasor * patch.sum[there][lit] / w
        known = (variance < _LINEAR) * v * w / (v + w)
        self.scatter += float(np.sum(known * np.abs(other / mean - 1) ** 2))
        self.expected += float(np.sum(known * variance))

    def _grow(self, used: Window) -> None:
        """Make room, and some more for what follows."""
        rows, columns = used.rows // 4, used.columns // 4
        box = Window(used.row - rows, used.column - columns, used.rows + 2 * rows, used.columns + 2 * columns)
        old, new = self.within(self.used), overlap(box, self.used)
        for name in ("sum", *_REAL):
            before = getattr(self, name)
            after = np.zeros((box.rows, box.columns), before.dtype)
            after[new] = before[old]
            setattr(self, name, after)
        self.box = box


def joined(parts: list[Part], patch: Part) -> list[Part]:
    """Return the parts with a patch, which joins those that it overlaps with."""
    links = [_link(part, patch) for part in parts]
    total = patch.weight.sum()
    connected = [
        i
        for i, (part, link) in enumerate(zip(parts, links, strict=True))
        if link.weight >= LEAST_OVERLAP * min(total, part.weight.sum())
    ]
    if not connected:
        return [*parts, patch]
    first = max(connected, key=lambda i: links[i].weight)
    whole = parts[first]
    whole.compare(patch, links[first].phasor)
    whole.add(patch, links[first].phasor)
    for i in connected:
        if i != first:
            whole.add(parts[i], _link(whole, parts[i]).phasor)
    return [part for i, part in enumerate(parts) if i == first or i not in connected]


def widening(posterior: Posterior) -> float:
    """Factor of the variance that an ALARM needs: 1 for any other; infinite or NaN where it says nothing.

    If the truth is like one of the draws, the mean of their predictions mu, whose variance is V, has a
    reduced chi-squared of 1 + <V / mu>: a misfit beyond that is by how much the draws are too sure. Frames
    unlike those of training get the square of the score that says how far beyond the limit they are.
    """
    trust, prediction = posterior.trust, posterior.prediction
    if trust.verdict is not Verdict.ALARM:
        return 1.0
    mean = np.asarray(prediction.mean, dtype=np.float64)
    lit = mean > LEAST_COUNTS
    variance = np.square((prediction.upper - prediction.lower)[lit] / _BAND, dtype=np.float64)
    spread = float(np.mean(variance / mean[lit])) if lit.any() else 0.0
    ood = trust.ood_score**2 if np.isfinite(trust.ood_score) else 0.0
    return float(np.maximum(trust.reduced_chi2 / (1 + spread), max(1.0, ood)))


def patch_of(posterior: Posterior) -> Part | None:
    """Weights and weighted transmission of a posterior; None where nothing of it is finite."""
    phase, absorption = (np.asarray(part, dtype=np.float64) for part in posterior.mean)
    variance = widening(posterior) * np.square(posterior.std, dtype=np.float64).sum(0)
    good = np.isfinite(phase) & np.isfinite(absorption) & np.isfinite(variance) & (variance > 0)
    if not good.any():
        return None
    light = np.ones_like(variance) if posterior.light is None else np.maximum(posterior.light, DARKEST)
    light = np.where(good, light, 0.0)
    weight = np.divide(light, variance, out=np.zeros_like(variance), where=good)
    modulus = weight * np.exp(-np.where(good, absorption, 0.0))
    phase = np.where(good, phase, 0.0)
    row, column = (int(np.floor(p + 0.5)) for p in posterior.place or (0.0, 0.0))
    box = Window(row, column, *weight.shape)
    transmission = np.empty(weight.shape, np.complex128)
    transmission.real, transmission.imag = modulus * np.cos(phase), modulus * np.sin(phase)
    doubted = weight.copy() if posterior.trust.verdict is Verdict.ALARM else np.zeros_like(weight)
    return Part(transmission, weight, light, weight * light, weight * weight, doubted, box, box)


def _link(part: Part, patch: Part) -> _Link:
    """Weight of the difference of two parts, and the phasor that turns the second to the first.

    With the weights v and w that of the difference of the two means is v w / (v + w).
    """
    window = common(part.used, patch.used)
    if window.rows <= 0 or window.columns <= 0:
        return _Link(0.0, 1.0)
    here, there = part.within(window), patch.within(window)
    v, w = part.weight[here], patch.weight[there]
    both = np.maximum(v + w, np.finfo(np.float64).tiny)
    correlation = np.sum(part.sum[here] * patch.sum[there].conj() / both)
    return _Link(float(np.sum(v * w / both)), _unit(complex(correlation)))


def _unit(value: complex) -> complex:
    return value / abs(value) if abs(value) > 0 else 1.0
