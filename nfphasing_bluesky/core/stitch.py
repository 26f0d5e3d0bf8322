"""One object from the posteriors of many overlapping patches, as they come."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import FrameError, GeometryError
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.core.posterior import Axis, DensityInfo, Posterior
from nfphasing_bluesky.core.stitched_parts import Part, joined, patch_of
from nfphasing_bluesky.core.windows import Window, around, common, overlap


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
        left_out: number of patches that were not used: nothing of them is finite.
        axes: of rows and columns, "y" and "x", in the unit of the patches; 0 where positions are 0.
        doubted: (Y, X) True where what is known rests on ALARM patches for the most part.
    """

    mean: NDArray[np.complexfloating]
    std: FloatArray
    component: NDArray[np.integer]
    place: tuple[int, int]
    frames: int
    left_out: int
    axes: tuple[Axis, Axis]
    doubted: NDArray[np.bool_]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(Y, X) True where a patch lies."""
        return self.component > 0

    @property
    def doubtful_share(self) -> float:
        """Share of the pixels seen that rest on ALARM patches."""
        return float(self.doubted[self.seen].mean()) if self.seen.any() else 0.0

    @property
    def doubtful(self) -> bool:
        """Whether most of the pixels seen rest on ALARM patches."""
        return self.doubtful_share > 0.5

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
    weights w = l / v, v = std_phase^2 + std_absorption^2, l the light that fell on the pixel, 1 without any
    said: where a frame had no light its posterior is what the prior and its neighbours said, and each of
    these counted once more would draw the object to the prior. Each patch knows its phase up to a constant:
    that is taken from its overlap with what lies there already, weighted like the difference.
    A patch with too little overlap (`stitched_parts.LEAST_OVERLAP`) begins a component of its own; one that
    overlaps with several joins them. A patch is never turned again, so that another order gives the same
    object up to some tenths of its error bars.

    Patches aren't independent: they share frames where the model looks at neighbours too, and what is wrong
    with the probe is wrong for all. How much of their variance they share is measured: an independent patch
    lies as far from the mean of those before it as its variance v and that of the mean,
    F = sum w^2 v / (sum w)^2, say; patches that err alike lie closer. If the square of the distance is chi
    times what independent patches would have, over the well-known pixels of a component, then the variance of
    the mean is (1 - chi) sum w v / sum w + chi F, or chi F where patches disagree more than they say. It is
    right for independent noise, and for patches that all say the same. A model that looks at K neighbours
    sees every frame in K + 1 patches, which then err together by what they are wrong in themselves: F is
    min(patches, K + 1) times as large, which is cautious.

    WARNING patches are used with their own standard deviations, those of ALARM patches are widened as far as
    their misfit says (`stitched_parts.widening`): so they count little where others saw the same, and what
    only they saw is there with an error that can be believed. The object says which pixels rest on them.

    Args:
        neighbours: how many other frames the model looks at for each, `ModelInfo.neighbours`.
        window: what `result` shows; by default all there is.
    """

    def __init__(self, neighbours: int = 0, window: Window | None = None) -> None:
        if neighbours < 0:
            raise GeometryError(f"neighbours={neighbours}, expected the number of other frames, 0 or more")
        self._copies = neighbours + 1
        self._window = window
        self._parts: list[Part] = []
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
        patch = patch_of(posterior)
        if patch is None:
            self.left_out += 1
            return False
        self._parts = joined(self._parts, patch)
        return True

    def result(self) -> StitchedObject | None:
        """Return the object so far; None without any patch.

        Raises:
            GeometryError: the patches lie too far apart for one array.
        """
        if self._density is None or not self._parts:
            return None
        window = self._window or around(part.used for part in self._parts)
        shape = (window.rows, window.columns)
        mean = np.full(shape, np.nan + 1j * np.nan)
        std, component = np.full(shape, np.nan), np.zeros(shape, np.int32)
        best, doubted = np.zeros(shape), np.zeros(shape, bool)
        for number, part in enumerate(sorted(self._parts, key=lambda p: -p.frames), 1):
            here, there = overlap(window, part.used), part.within(common(window, part.used))
            weight = part.weight[there]
            more = weight > best[here]
            best[here][more] = weight[more]
            mean[here][more] = (part.sum[there][more] / weight[more]) * part.gauge
            std[here][more] = part.std(self._copies)[there][more]
            component[here][more] = number
            doubted[here][more] = (2 * part.doubted[there] > weight)[more]
        return StitchedObject(
            mean,
            std,
            component,
            (window.row, window.column),
            self.frames,
            self.left_out,
            _axes(self._density, window),
            doubted,
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


def parts_of(density: DensityInfo) -> tuple[DensityInfo, ...]:
    """What the images (H, W) of a density are: phase, rad, and absorption of a transmission, else itself."""
    if not is_transmission(density):
        return (density,)
    return tuple(
        DensityInfo(density.quantity.replace("phase and absorption", name), unit, density.axes[1:])
        for name, unit in (("phase", "rad"), ("absorption", "1"))
    )


def _step(axis: Axis) -> float:
    return float(axis.values[1] - axis.values[0]) if axis.values.size > 1 else 1.0


def _axes(density: DensityInfo, window: Window) -> tuple[Axis, Axis]:
    y, x = density.axes[1:]
    return (
        Axis("y", _step(y) * (window.row + np.arange(window.rows)), y.units),
        Axis("x", _step(x) * (window.column + np.arange(window.columns)), x.units),
    )
