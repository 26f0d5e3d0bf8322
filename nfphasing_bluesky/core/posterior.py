"""Posterior: what the flow says about one frame, with units and a verdict on how far to trust it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.frame import Origin
from nfphasing_bluesky.core.geometry import FloatArray
from nfphasing_bluesky.core.modes import Alignment, Mode, find_modes
from nfphasing_bluesky.core.symmetry import Symmetry

_QUANTILES = np.array([0.025, 0.16, 0.5, 0.84, 0.975])


class Verdict(StrEnum):
    """How far to trust a posterior; maps to Tango attribute quality."""

    VALID = "VALID"
    WARNING = "WARNING"
    ALARM = "ALARM"


@dataclass(frozen=True)
class Trust:
    """Checks on one posterior.

    Args:
        reduced_chi2: of the best-fitting draw's curve against the frame (about 1 for a good fit).
        ess_fraction: importance-sampling effective sample size over the number of draws; None where the
            prior density is intractable.
        ood_score: distance of the frame from the training set; 1 is the threshold of the model card.
        verdict: VALID, WARNING or ALARM.
        reason: why, in words; empty for VALID.
        acceptance: of the steps that moved the draws to the exact posterior; None where they were not moved.
        agreement: probability of one part of the frame given the rest of it, uniform in 0..1 where the prior
            holds; None where there is no such check.
    """

    reduced_chi2: float
    ess_fraction: float | None
    ood_score: float
    verdict: Verdict
    reason: str = ""
    acceptance: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, eq=False)
class Axis:
    """A coordinate of u: name, (N,) values, units; of an axis that numbers parts also their names."""

    name: str
    values: FloatArray
    units: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """Declaration of one scalar that a modality infers. `name` carries the unit; `unit` is for people."""

    name: str
    unit: str
    label: str


@dataclass(frozen=True)
class Summary:
    """Median, standard deviation and quantiles of one parameter's draws.

    Of S draws as good as the truth, the k-th smallest is the k / (S + 1) quantile: intervals between such
    hold the truth as often as they say, whatever S is (W. Weibull, Ing. Vetensk. Akad. Handl. 151 (1939)).
    Fewer than 39 draws don't reach 95 %: there the interval is from the smallest to the largest.

    All are NaN where there is one draw or none: one says nothing of how certain it is.
    """

    median: float
    std: float
    q025: float
    q16: float
    q84: float
    q975: float
    unit: str

    @classmethod
    def of(cls, draws: FloatArray, unit: str) -> "Summary":
        """Summarise (S,) draws, leaving out NaN (draws in which the parameter does not exist)."""
        draws = np.sort(draws[np.isfinite(draws)])
        if draws.size < 2:
            nan = float("nan")
            return cls(nan, nan, nan, nan, nan, nan, unit)
        # np.quantile takes ten times as long for it, which is that of a whole frame of a cheap model
        ends = np.interp(_QUANTILES * (draws.size + 1) - 1, np.arange(draws.size), draws)
        q025, q16, median, q84, q975 = ends.tolist()
        return cls(median, float(draws.std()), q025, q16, q84, q975, unit)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Posterior-predictive pattern on the frame's own grid: mean and 95 % band, the frame's shape."""

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True)
class DensityInfo:
    """What u is: its name (`p(r)`, `rho(r)`), units and axes, slowest axis first."""

    quantity: str
    units: str
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one density."""
        return tuple(axis.values.size for axis in self.axes)


PROJECTED = "projected density"
"""Quantity of u behind a small-angle pattern, seen along the beam. Pictures of both have y and qy upwards."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior over the density of one frame.

    Args:
        density: what u is, its axes and units.
        mean, std: pointwise posterior mean and standard deviation of u, the density's shape.
        samples: (S, *shape) draws of u.
        parameters: name -> (S,) draws; NaN where the parameter does not exist in a draw's class.
        units: name -> unit of each parameter.
        classes: class -> posterior probability; empty for models with no classes.
        labels: (S,) index of each draw's class in `classes`; empty for models with no classes.
        symmetry: what is taken away before draws are told apart as modes; None where there is one answer.
        answers: (S,) which of its answers the model made each draw from; empty where that is not known.
        place: row and column of u's pixel [0, 0] in the larger object that the scan is about; None for none.
        light: (H, W) photons on each pixel of u over those on the brightest; None where the frame lights all
            alike, or where u has no pixels of its own.
        prediction: posterior-predictive pattern.
        trust: checks and verdict.
        origin: of the frame.
        latency_s: frame in to posterior out, shared evenly over its batch; in a derived run from the frame's
            arrival on, with all waiting, s.
    """

    density: DensityInfo
    mean: FloatArray
    std: FloatArray
    samples: FloatArray
    parameters: Mapping[str, FloatArray]
    units: Mapping[str, str]
    prediction: Prediction
    trust: Trust
    classes: Mapping[str, float] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    latency_s: float = 0.0
    labels: NDArray[np.integer] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    place: tuple[float, float] | None = None
    light: FloatArray | None = None
    symmetry: Symmetry | None = None
    answers: NDArray[np.integer] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that it keeps in memory; some may be shared with other posteriors."""
        band = self.prediction
        arrays = (self.mean, self.std, self.samples, band.mean, band.lower, band.upper)
        return sum(np.asarray(array).nbytes for array in arrays)

    def summary(self) -> dict[str, Summary]:
        """Summaries of every parameter."""
        return dict(self._summaries)

    @cached_property
    def _summaries(self) -> dict[str, Summary]:
        return {name: Summary.of(draws, self.units[name]) for name, draws in self.parameters.items()}

    def modes(self, align: Alignment | None = None) -> tuple[Mode, ...]:
        """The answers among the samples, the heaviest first; see `find_modes`.

        Args:
            align: `symmetry` when None.
        """
        return find_modes(self.samples, align or self.symmetry, self.answers)


@dataclass(frozen=True)
class Failure:
    """A frame that could not be reconstructed, and why."""

    origin: Origin
    reason: str


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model is and infers; everything documents and Tango need to declare their data keys.

    `neighbours` is the number of other frames of the scan that it looks at to reconstruct one, `answers` how
    many of a frame's modes a derived run keeps, the heaviest; 0 where there is one answer. `whole_frames`
    says that it takes frames of a detector as they are, though its density has one axis.
    """

    name: str
    modality: str
    version: str
    sha256: str
    density: DensityInfo
    parameters: tuple[Parameter, ...]
    classes: tuple[str, ...] = ()
    neighbours: int = 0
    answers: int = 0
    whole_frames: bool = False

    @property
    def takes_curves(self) -> bool:
        """Whether frames of a detector are reduced for it: averaged over rings, or cut."""
        return len(self.density.axes) == 1 and not self.whole_frames
