"""A reconstructor whose posterior is known in closed form: a straight line through a curve's points.

Run as a program it is a worker with this reconstructor: `python tiny.py SETTINGS_JSON`.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from nfphasing_bluesky.core import (
    Axis,
    DensityInfo,
    Failure,
    ModelError,
    ModelInfo,
    Parameter,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Trust,
    Verdict,
)

DENSITY = DensityInfo("line", "1/cm", (Axis("r", np.linspace(0, 1, 16), "angstrom"),))
INFO = ModelInfo(
    "tiny-line",
    "line",
    "1",
    "0" * 64,
    DENSITY,
    (Parameter("offset_inv_cm", "1/cm", "Offset"), Parameter("slope_inv_cm", "1/cm", "Slope")),
)
IMAGE_INFO = ModelInfo(
    "tiny-image",
    "plane",
    "1",
    "1" * 64,
    DensityInfo(
        "plane",
        "rad",
        (Axis("y", np.linspace(0, 1, 6), "micrometer"), Axis("x", np.linspace(0, 1, 8), "micrometer")),
    ),
    (Parameter("offset_rad", "rad", "Offset"),),
)
LARGE_INFO = ModelInfo(
    "tiny-large",
    "plane",
    "1",
    "2" * 64,
    DensityInfo(
        "plane",
        "rad",
        (Axis("y", np.linspace(0, 1, 48), "micrometer"), Axis("x", np.linspace(0, 2, 64), "micrometer")),
    ),
    IMAGE_INFO.parameters,
)
HUGE_INFO = ModelInfo(
    "tiny-huge",
    "plane",
    "1",
    "3" * 64,
    DensityInfo(
        "plane",
        "rad",
        (Axis("y", np.linspace(0, 1, 256), "micrometer"), Axis("x", np.linspace(0, 1, 256), "micrometer")),
    ),
    IMAGE_INFO.parameters,
)


class LineReconstructor:
    """Bayesian straight-line fit; slow on demand, and unable to take NaN or negative first points.

    With a gate, a path, it goes on when there is such a file, and says beside it that it waits for one.
    """

    def __init__(self, settings=None, info=INFO, seconds_per_frame=0.0, gate=None):
        self.info = info
        self.settings = settings or ReconstructionSettings(n_samples=32)
        self.batches = []
        self._seconds_per_frame, self._gate = seconds_per_frame, gate

    def __call__(self, frames, n_samples=None, seed=None):
        self.batches.append(len(frames))
        while self._gate is not None and not self._gate.exists():
            self._gate.with_suffix(".waiting").touch()
            time.sleep(0.01)
        if self._seconds_per_frame:
            time.sleep(self._seconds_per_frame * len(frames))
        return [self._one(frame) for frame in frames]

    def _one(self, frame):
        if not frame.usable.all():
            raise FloatingPointError("NaN reached the model")
        intensity = frame.intensity.ravel()
        if intensity[0] < 0:
            return Failure(frame.origin, "negative intensity")
        x = np.linspace(0, 1, intensity.size)
        sigma = np.ones(x.size) if frame.sigma is None else frame.sigma.ravel()
        design = np.stack([np.ones_like(x), x], axis=1) / sigma[:, None]
        covariance = np.linalg.inv(design.T @ design)
        mean = covariance @ design.T @ (intensity / sigma)
        rng = np.random.default_rng([self.settings.seed, frame.origin.seq_num])
        draws = rng.multivariate_normal(mean, covariance, self.settings.n_samples)
        return self._posterior(frame, draws, mean, sigma, x)

    def _posterior(self, frame, draws, mean, sigma, x):
        density = self.info.density
        grid = sum(np.meshgrid(*[a.values for a in density.axes], indexing="ij"))
        shape = (-1, *[1] * grid.ndim)
        samples = draws[:, 0].reshape(shape) + draws[:, 1].reshape(shape) * grid
        fit = mean[0] + mean[1] * x
        chi2 = float(np.mean(((frame.intensity.ravel() - fit) / sigma) ** 2))
        verdict = Verdict.VALID if chi2 < 3 else Verdict.WARNING if chi2 < 10 else Verdict.ALARM
        reason = "" if verdict is Verdict.VALID else f"reduced chi-squared {chi2:.1f}, expected about 1"
        names = [p.name for p in self.info.parameters]
        return Posterior(
            density,
            samples.mean(0),
            samples.std(0),
            samples,
            {name: draws[:, i] for i, name in enumerate(names)},
            {p.name: p.unit for p in self.info.parameters},
            Prediction(
                *(part.reshape(frame.intensity.shape) for part in (fit, fit - 2 * sigma, fit + 2 * sigma))
            ),
            Trust(chi2, 0.9, 0.1, verdict, reason),
            origin=frame.origin,
            latency_s=0.001,
        )


def find(model):
    """Find a folder that a test made, which stands for a model's."""
    return Path(model) if Path(model).is_dir() else None


def load(model, device, settings):
    """Load `known-object`, a folder with a `version` in it, or one of the `tiny-` ones.

    These can be slowed: `tiny-line:0.05` takes 50 ms a frame, `tiny-line:/tmp/go` waits for a file.
    """
    if find(model):
        return LineReconstructor(settings, replace(INFO, version=(find(model) / "version").read_text()))
    if model == "known-object":
        from tests.known_object import KnownObject

        return KnownObject(settings)
    name, _, pace = model.partition(":")
    gate = Path(pace) if "/" in pace else None
    infos = {info.name: info for info in (INFO, IMAGE_INFO, LARGE_INFO, HUGE_INFO)}
    if name not in infos:
        raise ModelError(f"no model {model!r}, expected one of {sorted(infos)}")
    return LineReconstructor(settings, infos[name], float(0 if gate else pace or 0), gate)


def hang_while(there):
    """Let the call that claims disk space hang while a path exists, as one of a file server that is gone."""
    claim = os.posix_fallocate

    def claim_later(*arguments):
        while there.exists():
            there.with_suffix(".hanging").touch()
            time.sleep(0.05)
        claim(*arguments)

    os.posix_fallocate = claim_later


if __name__ == "__main__":
    import sys

    sys.path.append(str(Path(__file__).resolve().parents[2]))

    from nfphasing_bluesky.streaming.serve import serve
    from nfphasing_bluesky.streaming.settings import WorkerSettings

    if "TINY_HANGS_WHILE" in os.environ:
        hang_while(Path(os.environ["TINY_HANGS_WHILE"]))
    serve(WorkerSettings.model_validate_json(sys.argv[-1]), load=load, find=find)
