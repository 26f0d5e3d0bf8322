"""Raw runs as documents, and a small reconstructor with the interface of the real one."""

from collections.abc import Sequence

import event_model
import numpy as np
import pytest

from nfphasing_bluesky.core import (
    Axis,
    CurveGeometry,
    DensityInfo,
    Failure,
    Frame,
    ModelInfo,
    Parameter,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Trust,
    Verdict,
)

R_ANGSTROM = np.linspace(0.0, 120.0, 48)
DENSITY = DensityInfo("p(r)", "1/angstrom", (Axis("r", R_ANGSTROM, "angstrom"),))


class GuinierReconstructor:
    """Weighted Guinier fit: Rg and I(0) with errors, draws from their covariance, a Gaussian p(r)."""

    def __init__(self, settings: ReconstructionSettings | None = None) -> None:
        self.settings = settings or ReconstructionSettings(n_samples=32, seed=3)
        parameters = (
            Parameter("rg_angstrom", "angstrom", "radius of gyration"),
            Parameter("i0", "", "forward intensity"),
        )
        self.info = ModelInfo("guinier", "saxs1d", "1", "0" * 64, DENSITY, parameters, ("compact",))

    def __call__(
        self, frames: Sequence[Frame], n_samples: int | None = None, seed: int | None = None
    ) -> list[Posterior | Failure]:
        n = n_samples or self.settings.n_samples
        start = self.settings.seed if seed is None else seed
        return [self._one(frame, n, np.random.default_rng(start)) for frame in frames]

    def _one(self, frame: Frame, n: int, rng: np.random.Generator) -> Posterior | Failure:
        assert isinstance(frame.geometry, CurveGeometry)
        good = frame.usable & (frame.intensity > 0) & (frame.geometry.q_inv_angstrom < 0.04)
        if good.sum() < 5:
            return Failure(frame.origin, f"{good.sum()} usable points below 0.04 1/angstrom, expected 5")
        q = frame.geometry.q_inv_angstrom[good]
        sigma = (frame.sigma if frame.sigma is not None else np.sqrt(frame.intensity))[good]
        weight = frame.intensity[good] / sigma
        design = np.stack([np.ones_like(q), -(q**2) / 3], axis=1) * weight[:, None]
        covariance = np.linalg.inv(design.T @ design)
        best = covariance @ design.T @ (np.log(frame.intensity[good]) * weight)
        draws = rng.multivariate_normal(best, covariance, size=n)
        rg, i0 = np.sqrt(np.maximum(draws[:, 1], 1e-6)), np.exp(draws[:, 0])
        u = R_ANGSTROM**2 * np.exp(-0.75 * (R_ANGSTROM / rg[:, None]) ** 2)
        u /= u.sum(axis=1, keepdims=True) * (R_ANGSTROM[1] - R_ANGSTROM[0])
        misfit = (np.log(frame.intensity[good]) * weight - design @ best) ** 2
        chi2 = float(misfit.sum() / max(1, good.sum() - 2))
        curve = np.exp(best[0] - best[1] * frame.geometry.q_inv_angstrom**2 / 3)
        verdict = Verdict.VALID if chi2 < 2 else Verdict.WARNING
        return Posterior(
            DENSITY,
            u.mean(axis=0),
            u.std(axis=0),
            u,
            {"rg_angstrom": rg, "i0": i0},
            {"rg_angstrom": "angstrom", "i0": ""},
            Prediction(curve, curve, curve),
            Trust(chi2, None, 0.1, verdict, "" if verdict == Verdict.VALID else f"reduced chi2 {chi2:.2f}"),
            {"compact": 1.0},
            frame.origin,
            0.002,
        )


Q = np.linspace(0.004, 0.2, 60)


def guinier_curve(rg: float, scale: float = 1e4) -> np.ndarray:
    return scale * np.exp(-((Q * rg) ** 2) / 3) + 1.0


class RawRun:
    """Composes the documents of a raw run of curves: `saxs`, `saxs_q`, `saxs_sigma` inline."""

    def __init__(
        self, keys: dict | None = None, stream: str = "primary", configuration=None, **metadata
    ) -> None:
        bundle = event_model.compose_run(metadata={"plan_name": "count", "scan_id": 7, **metadata})
        self.bundle, self.uid = bundle, bundle.start_doc["uid"]
        self.documents: list[tuple[str, dict]] = [("start", dict(bundle.start_doc))]
        self.keys = keys or {name: array_key(Q.shape, units) for name, units in CURVE_KEYS.items()}
        self.descriptor = bundle.compose_descriptor(
            name=stream,
            data_keys=self.keys,
            object_keys={"saxs": list(self.keys)},
            configuration=configuration,
        )
        self.documents.append(("descriptor", dict(self.descriptor.descriptor_doc)))

    def event(self, **data) -> None:
        at = 1000.0 + len(self.documents)
        doc = self.descriptor.compose_event(
            data=data, timestamps=dict.fromkeys(data, at), time=at, validate=False
        )
        self.documents.append(("event", dict(doc)))

    def curve(self, rg: float = 30.0) -> None:
        intensity = guinier_curve(rg)
        self.event(saxs=intensity, saxs_q=Q, saxs_sigma=0.01 * intensity)

    def stop(self, exit_status: str = "success", reason: str = "") -> None:
        self.documents.append(
            ("stop", dict(self.bundle.compose_stop(exit_status=exit_status, reason=reason)))
        )


CURVE_KEYS = {"saxs": "", "saxs_q": "1/angstrom", "saxs_sigma": ""}


def array_key(shape, units: str = "", **more) -> dict:
    return {"source": "sim", "dtype": "array", "shape": list(shape), "units": units, **more}


class Heard:
    """A RunListener that writes down what it hears."""

    def __init__(self) -> None:
        self.started: list[dict] = []
        self.items: list = []
        self.stopped: list[tuple[str, str, str]] = []

    def run_started(self, start) -> None:
        self.started.append(dict(start))

    def frame(self, frame) -> None:
        self.items.append(frame)

    def run_stopped(self, raw_uid: str, exit_status: str, reason: str) -> None:
        self.stopped.append((raw_uid, exit_status, reason))

    @property
    def frames(self) -> list[Frame]:
        return [item for item in self.items if isinstance(item, Frame)]

    @property
    def failures(self) -> list[Failure]:
        return [item for item in self.items if isinstance(item, Failure)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def raw_run():
    return RawRun


@pytest.fixture
def reconstructor() -> GuinierReconstructor:
    return GuinierReconstructor()


@pytest.fixture
def key_of():
    """`key_of(shape, units)` declares an array-valued data key."""
    return array_key


@pytest.fixture
def q() -> np.ndarray:
    return Q


@pytest.fixture
def curve_of():
    return guinier_curve
