"""A model that costs next to nothing: u is the frame. Run as a program it is a worker with this model."""

import sys
from pathlib import Path

import numpy as np

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    ModelInfo,
    Parameter,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Trust,
    Verdict,
)

SIDE = 256
_AXES = tuple(Axis(name, np.arange(float(SIDE)), "micrometer") for name in ("y", "x"))
_DENSITY = DensityInfo("identity", "counts", _AXES)
INFO = ModelInfo("identity", "identity", "1", "0" * 64, _DENSITY, (Parameter("mean_counts", "", "Mean"),))
_TRUST = Trust(1.0, 1.0, 0.0, Verdict.VALID, "")


class Identity:
    """Gives each frame back as the mean, with its square root as the deviation of all frames alike."""

    def __init__(self, settings: ReconstructionSettings | None = None) -> None:
        self.info, self.settings = INFO, settings or ReconstructionSettings(n_samples=2)
        self._std = np.full((SIDE, SIDE), 10.0, np.float32)
        self._draws = np.zeros((2, 1, 1), np.float32)

    def __call__(self, frames):
        """One posterior a frame."""
        return [self._one(frame) for frame in frames]

    def _one(self, frame):
        mean = np.asarray(frame.intensity, np.float32)
        prediction = Prediction(mean, mean, mean)
        parameters = {"mean_counts": np.ones(2)}
        return Posterior(
            _DENSITY,
            mean,
            self._std,
            self._draws,
            parameters,
            {"mean_counts": ""},
            prediction,
            _TRUST,
            origin=frame.origin,
            latency_s=1e-4,
        )


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))

    from nfphasing_bluesky.core import keep_freed_memory
    from nfphasing_bluesky.streaming.serve import serve
    from nfphasing_bluesky.streaming.settings import WorkerSettings

    keep_freed_memory()
    serve(WorkerSettings.model_validate_json(sys.argv[-1]), load=lambda *_: Identity(), find=lambda _: None)
