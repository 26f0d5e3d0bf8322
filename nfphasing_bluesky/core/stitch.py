"""One object from the posteriors of many overlapping patches, as they come."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import FrameError, GeometryError
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.core.posterior import Axis, DensityInfo, Posterior, Verdict

LEAST_OVERLAP = 0.01
"""Share of a patch's weight that must lie on a component for the two to be connected: with less, the phase
between them would come from pixels that the beam hardly lit."""

_MOST_PIXELS = 2**27


class Window(NamedTuple):
    """A rectangle of an object: row and column of its pixel [0, 0], and its numbers of rows and columns."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class StitchedObject:
    """An object put together from patches.

    Args:
        mean: (Y, X) complex transmission, NaN where no patch lies. In each component the mean of the
            transmission, weighted like the patches, is real and positive: its global phase can't be measured.
        std: (Y, X) standard deviation of the complex transmission over its modulus,
            sqrt(std_phase^2 + std_absorption^2); NaN where no patch lies.
        component: (Y, X) which component a pixel belongs to, the one of most frames is 1; 0 where no patch
            lies. Between components the phase is unknown.
        place: row and column of pixel [0, 0] in the pixels that positions count in.
        frames: number of patches in it.
        left_out: number of patches that were not used: verdict ALARM, or nothing finite.
        doubtful: it is made of ALARM patches, because there were no others.
        axes: of rows and columns, "y" and "x", in the unit of the patches; 0 where positions are 0.
    """

    mean: NDArray[np.complexfloating]
    std: FloatArray
    component: NDArray[np.integer]
    place: tuple[int, int]
    frames: int
    left_out: int
    axes: tuple[Axis, Axis]
    doubtful: bool = False

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(Y, X) True where a patch lies."""
        return self.component > 0

    @property
    def components(self) -> int:
        """How many components there are."""
        return int(self.component.max(initial=0))

    @property
    def parts(self) -> FloatArray:
        """(2, Y, X) phase in (-pi, pi], rad, and absorption, -log of the modulus."""
        modulus = np.abs(self.mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            absorption = -np.log(modulus)
        phase = np.where(self.seen, np.angle(self.mean), np.nan)
        return np.stack([phase, absorption])


class Stitcher:
    """Grows an object from posteriors over patches, one by one.

    A patch is a posterior with a `place` over phase and absorption, T = exp(i phase - absorption); it lies at
    the nearest whole pixel, floor(place + 1/2), where its model puts it too. Patches are averaged with the
    weights w = 1 / (std_phase^2 + std_absorption^2). Each patch knows its phase up to a constant: that is
    taken from its overlap with what lies there already, weighted by the inverse variance of the difference.
    A patch with too little overlap (`LEAST_OVERLAP`) begins a component of its own; one that overlaps with
    several joins them. A patch is never turned again, so that another order gives the same object up to some
    tenths of its error bars.

    Posteriors of neighbours aren't independent: a model that looks at K neighbours gives K + 1 posteriors
    that share the same frames. The variance is min(K_eff, K + 1) / sum w with K_eff = (sum w)^2 / sum w^2
    patches on a pixel. It is right for K = 0 and independent noise, and for patches that all say the same.
    Where no frame has light every posterior is the prior, and averaging these makes it look known better than
    it is by at most sqrt(patches / (K + 1)).

    WARNING patches are used with their own standard deviations, ALARM patches are left out: they say of
    themselves that neither mean nor error is to be believed, and one wrong patch spoils its neighbours'
    phases. As long as there are no others `result` shows these, for what they are worth.

    Args:
        neighbours: how many other frames the model looks at for each, `ModelInfo.neighbours`.
        window: what `result` shows; by default all there is.
    """

    def __init__(self, neighbours: int = 0, window: Window | None = None) -> None:
        if neighbours < 0:
            raise GeometryError(f"neighbours={neighbours}, expected the number of other frames, 0 or more")
        self._shared = neighbours + 1
        self._window = window
        self._parts: list[_Part] = []
        self._alarms: list[_Part] = []
        self._density: DensityInfo | None = None
        self.left_out = 0

    @property
    def frames(self) -> int:
        """Number of patches used."""
        return sum(part.frames for part in self._parts)

    def add(self, posterior: Posterior) -> bool:
        """Take a patch; False when it was left out.

        Raises:
            FrameError: a posterior with no place, of something else than phase and absorption, or with other
                pixels than those before it.
        """
        self._check(posterior)
        patch = _patch(posterior)
        if patch is None or (posterior.trust.verdict is Verdict.ALARM and self._parts):
            self.left_out += 1
            return False
        if posterior.trust.verdict is Verdict.ALARM:
            self.left_out += 1
            self._alarms = _joined(self._alarms, patch)
            return False
        self._alarms = []
        self._parts = _joined(self._parts, patch)
        return True

    def result(self) -> StitchedObject | None:
        """Return the object so far; None without any patch.

        Raises:
            GeometryError: the patches lie too far apart for one array.
        """
        parts = self._parts or self._alarms
        if self._density is None or not parts:
            return None
        window = self._window or _around(part.used for part in parts)
        shape = (window.rows, window.columns)
        mean = np.full(shape, np.nan + 1j * np.nan)
        std, component = np.full(shape, np.nan), np.zeros(shape, np.int32)
        best = np.zeros(shape)
        for number, part in enumerate(sorted(parts, key=lambda p: -p.frames), 1):
            here, there = _overlap(window, part.used), part.within(_common(window, part.used))
            weight = part.weight[there]
            more = weight > best[here]
            best[here][more] = weight[more]
            mean[here][more] = (part.sum[there][more] / weight[more]) * part.gauge
            copies = np.minimum(weight[more] ** 2 / part.squares[there][more], self._shared)
            std[here][more] = np.sqrt(copies / weight[more])
            component[here][more] = number
        return StitchedObject(
            mean,
            std,
            component,
            (window.row, window.column),
            sum(part.frames for part in parts),
            self.left_out if self._parts else self.left_out - sum(part.frames for part in parts),
            _axes(self._density, window),
            doubtful=not self._parts,
        )

    def _check(self, posterior: Posterior) -> None:
        label, axes = posterior.origin.label, posterior.density.axes
        if posterior.place is None or not is_transmission(posterior.density):
            raise FrameError(
                f"{label}: a posterior over {posterior.density.quantity} {posterior.density.shape} with "
                f"place {posterior.place}, expected phase and absorption (2, H, W) with a place in the object"
            )
        if self._density is None:
            self._density = posterior.density
        for mine, first in zip(axes[1:], self._density.axes[1:], strict=True):
            if not np.isclose(_step(mine), _step(first), atol=0) or mine.units != first.units:
                raise FrameError(
                    f"{label}: pixel of {_step(mine):.6g} {mine.units}, the patches before it have "
                    f"{_step(first):.6g} {first.units}; stitch one scan at a time"
                )


def is_transmission(density: DensityInfo) -> bool:
    """Return True for densities that are phase and absorption of a patch, (2, H, W)."""
    return len(density.axes) == 3 and density.axes[0].name == "part" and density.shape[0] == 2


class _Link(NamedTuple):
    weight: float
    phasor: complex


@dataclass
class _Part:
    """Patches that are connected: sum w T, sum w and sum w^2 in an array that grows."""

    sum: NDArray[np.complex128]
    weight: NDArray[np.float64]
    squares: NDArray[np.float64]
    box: Window
    used: Window
    frames: int = 1

    @property
    def gauge(self) -> complex:
        """Phasor that makes the weighted mean real and positive."""
        return _unit(complex(self.sum.sum())).conjugate()

    def within(self, window: Window) -> tuple[slice, slice]:
        """Where a window lies in the arrays."""
        return _overlap(self.box, window)

    def add(self, other: "_Part", phasor: complex) -> None:
        """Add another part, turned by `phasor`."""
        used = _around([self.used, other.used])
        if _common(self.box, used) != used:
            self._grow(used)
        here, there = self.within(other.used), other.within(other.used)
        self.sum[here] += phasor * other.sum[there]
        self.weight[here] += other.weight[there]
        self.squares[here] += other.squares[there]
        self.used, self.frames = used, self.frames + other.frames

    def _grow(self, used: Window) -> None:
        """Make room, and some more for what follows."""
        rows, columns = used.rows // 4, used.columns // 4
        box = Window(used.row - rows, used.column - columns, used.rows + 2 * rows, used.columns + 2 * columns)
        old, new = self.within(self.used), _overlap(box, self.used)
        for name in ("sum", "weight", "squares"):
            before = getattr(self, name)
            after = np.zeros((box.rows, box.columns), before.dtype)
            after[new] = before[old]
            setattr(self, name, after)
        self.box = box


def _joined(parts: list[_Part], patch: _Part) -> list[_Part]:
    """Return the parts with a patch, which joins those that it overlaps with."""
    links = [_link(part, patch) for part in parts]
    total = patch.weight.sum()
    connected = [i for i, link in enumerate(links) if link.weight >= LEAST_OVERLAP * total]
    if not connected:
        return [*parts, patch]
    first = max(connected, key=lambda i: links[i].weight)
    whole = parts[first]
    whole.add(patch, links[first].phasor)
    for i in connected:
        if i != first:
            whole.add(parts[i], _link(whole, parts[i]).phasor)
    return [part for i, part in enumerate(parts) if i == first or i not in connected]


def _patch(posterior: Posterior) -> _Part | None:
    """Weights and weighted transmission of a posterior; None where nothing of it is finite."""
    phase, absorption = (np.asarray(part, dtype=np.float64) for part in posterior.mean)
    variance = np.square(posterior.std, dtype=np.float64).sum(0)
    good = np.isfinite(phase) & np.isfinite(absorption) & np.isfinite(variance) & (variance > 0)
    if not good.any():
        return None
    weight = np.divide(1.0, variance, out=np.zeros_like(variance), where=good)
    modulus = weight * np.exp(-np.where(good, absorption, 0.0))
    phase = np.where(good, phase, 0.0)
    row, column = (int(np.floor(p + 0.5)) for p in posterior.place or (0.0, 0.0))
    box = Window(row, column, *weight.shape)
    transmission = np.empty(weight.shape, np.complex128)
    transmission.real, transmission.imag = modulus * np.cos(phase), modulus * np.sin(phase)
    return _Part(transmission, weight, weight * weight, box, box)


def _link(part: _Part, patch: _Part) -> _Link:
    """Weight of the difference of two parts, and the phasor that turns the second to the first.

    With the weights v and w the difference of the two means has the inverse variance v w / (v + w).
    """
    window = _common(part.used, patch.used)
    if window.rows <= 0 or window.columns <= 0:
        return _Link(0.0, 1.0)
    here, there = part.within(window), patch.within(window)
    v, w = part.weight[here], patch.weight[there]
    both = np.maximum(v + w, np.finfo(np.float64).tiny)
    correlation = np.sum(part.sum[here] * patch.sum[there].conj() / both)
    return _Link(float(np.sum(v * w / both)), _unit(complex(correlation)))


def _unit(value: complex) -> complex:
    return value / abs(value) if abs(value) > 0 else 1.0


def _common(one: Window, other: Window) -> Window:
    """Rectangle that two have in common; rows or columns are 0 or less without any."""
    row, column = max(one.row, other.row), max(one.column, other.column)
    return Window(
        row,
        column,
        min(one.row + one.rows, other.row + other.rows) - row,
        min(one.column + one.columns, other.column + other.columns) - column,
    )


def _overlap(box: Window, window: Window) -> tuple[slice, slice]:
    """Where in an array over `box` the part of `window` lies that it has."""
    common = _common(box, window)
    row, column = common.row - box.row, common.column - box.column
    return slice(row, row + max(common.rows, 0)), slice(column, column + max(common.columns, 0))


def _around(windows: Iterable[Window]) -> Window:
    """Smallest rectangle that holds all of them."""
    corners = np.array([(w.row, w.column, w.row + w.rows, w.column + w.columns) for w in windows])
    row, column = (int(n) for n in corners[:, :2].min(0))
    last_row, last_column = (int(n) for n in corners[:, 2:].max(0))
    if (last_row - row) * (last_column - column) > _MOST_PIXELS:
        raise GeometryError(
            f"the patches span {last_row - row} x {last_column - column} pixels, expected at most "
            f"{_MOST_PIXELS} in all; check the unit of the positions and the pixel size"
        )
    return Window(row, column, last_row - row, last_column - column)


def _step(axis: Axis) -> float:
    return float(axis.values[1] - axis.values[0]) if axis.values.size > 1 else 1.0


def _axes(density: DensityInfo, window: Window) -> tuple[Axis, Axis]:
    y, x = density.axes[1:]
    return (
        Axis("y", _step(y) * (window.row + np.arange(window.rows)), y.units),
        Axis("x", _step(x) * (window.column + np.arange(window.columns)), x.units),
    )
