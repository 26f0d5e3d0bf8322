"""A reconstructor of straight lines through a curve's points, whose posterior is known in closed form."""

import numpy as np

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    Failure,
    ModelInfo,
    Parameter,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Trust,
    Verdict,
)

DENSITY = DensityInfo("line", "1", (Axis("x", np.linspace(0, 1, 5), "1/angstrom"),))
NAMES = ("offset", "slope")


class StraightLine:
    """Offset and slope over q of the points that are not masked, predicted at all of them.

    A share of `known` draws has a slope, the others NaN; from event `silent` on, if not 0, frames fail.
    """

    def __init__(
        self, settings: ReconstructionSettings, verdict: str = "VALID", known: float = 1.0, silent: int = 0
    ) -> None:
        self.settings, self._verdict = settings, Verdict(verdict)
        self._known, self._silent = known, silent
        parameters = tuple(Parameter(name, "", name) for name in NAMES)
        self.info = ModelInfo("line", "line", "1", "0" * 64, DENSITY, parameters)

    def __call__(self, frames, n_samples=None, seed=None):
        return [
            Failure(f.origin, "silent") if 0 < self._silent <= f.origin.seq_num else self._one(f)
            for f in frames
        ]

    def _one(self, frame):
        q, good = frame.geometry.q_inv_angstrom, frame.usable
        whole = np.stack([np.ones_like(q), q], 1)
        design = whole[good] / frame.sigma[good, None]
        covariance = np.linalg.inv(design.T @ design)
        mean = covariance @ design.T @ (frame.intensity[good] / frame.sigma[good])
        rng = np.random.default_rng([self.settings.seed, frame.origin.seq_num])
        draws = rng.multivariate_normal(mean, covariance, self.settings.n_samples)
        lines = draws @ np.stack([np.ones(5), DENSITY.axes[0].values])
        slope = np.where(np.arange(len(draws)) < self._known * len(draws), draws[:, 1], np.nan)
        low, high = np.quantile(draws @ whole.T, [0.025, 0.975], axis=0)
        return Posterior(
            DENSITY,
            lines.mean(0),
            lines.std(0),
            lines,
            {"offset": draws[:, 0], "slope": slope},
            dict.fromkeys(NAMES, ""),
            Prediction(whole @ mean, low, high),
            Trust(1.0, 0.9, 0.1, self._verdict, "" if self._verdict == "VALID" else "as asked"),
            origin=frame.origin,
        )
