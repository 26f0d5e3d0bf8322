"""A scan of a known object, and a reconstructor that knows the object and says so with known errors.

It stands for a model where the subject is what happens to its answers: its posterior is the truth plus noise
of the standard deviation that it states, and the phase of each patch is its own.
"""

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
from nfphasing_bluesky.core.neighbours import with_neighbours

SIDE = 24
SHAPE = (64, 72)
_Y, _X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
PROBE = (30 * np.exp(-(_Y**2 + _X**2) / (2 * 5.0**2)) * np.exp(0.01j * _X**2)).astype(np.complex64)


def known_object():
    """(Y, X) complex: smooth phases of about a radian, weakly absorbing."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 12
    return np.exp(1j * (0.7 * np.sin(x + 0.3 * y) + 0.3 * np.cos(2 * y)) - 0.05 * (1 + np.sin(y - x)))


def places(step=6):
    """(N, 2) whole rows and columns of a raster over the object."""
    return np.array(
        [(r, c) for r in range(0, SHAPE[0] - SIDE + 1, step) for c in range(0, SHAPE[1] - SIDE + 1, step)],
        dtype=np.float64,
    )


def counts(where, seed=0):
    """(N, H, W) far-field photons, direct beam in the middle."""
    rng = np.random.default_rng(seed)
    image = known_object()
    cut = [image[int(r) : int(r) + SIDE, int(c) : int(c) + SIDE] for r, c in where]
    waves = np.fft.fftshift(np.fft.fft2(PROBE * np.array(cut), norm="ortho"), axes=(1, 2))
    return rng.poisson(np.abs(waves) ** 2).astype(np.uint32)


def density(pixel_m=None):
    """Phase and absorption of a patch, in pixels or metres."""
    axis, units = (np.arange(SIDE) * (pixel_m or 1.0), "m" if pixel_m else "px")
    parts = Axis("part", np.array([0.0, 1.0]), "")
    return DensityInfo("phase and absorption", "rad", (parts, Axis("y", axis, units), Axis("x", axis, units)))


def std_of_patch():
    """(H, W): small where the probe is bright, that of a prior where it is dark."""
    return np.minimum(0.02 * np.abs(PROBE).max() / np.abs(PROBE), 0.8)


INFO = ModelInfo(
    "known-object",
    "known",
    "1",
    "2" * 64,
    density(),
    (Parameter("phase_range_rad", "rad", "Range of the phase"),),
    neighbours=2,
)


class KnownObject:
    """Answers with the truth and its errors; frames whose sequence number is in `alarms` get an ALARM."""

    def __init__(self, settings=None, info=INFO, alarms=(), fails=False):
        self.fails = fails
        self.info, self.settings, self.alarms = info, settings or ReconstructionSettings(n_samples=2), alarms
        self.seen = []

    def __call__(self, frames, n_samples=None, seed=None):
        self.seen.extend(frames)
        return [self._one(frame) for frame in frames]

    def survey(self, frames):
        """Frames with the neighbours that the model looks at."""
        return with_neighbours(frames, self.info.neighbours)

    def _one(self, frame):
        if frame.place is None or self.fails:
            return Failure(frame.origin, "out of order" if self.fails else "no place")
        rng = np.random.default_rng([self.settings.seed, frame.origin.seq_num])
        row, column = (int(np.floor(p + 0.5)) for p in frame.place)
        cut = known_object()[row : row + SIDE, column : column + SIDE]
        std = np.stack([std_of_patch()] * 2)
        mean = np.stack([np.angle(cut), -np.log(np.abs(cut))]) + std * rng.normal(size=std.shape)
        mean[0] += rng.uniform(-2, 2)
        samples = mean + std * rng.normal(size=(self.settings.n_samples, *std.shape))
        alarm = frame.origin.seq_num in self.alarms
        trust = Trust(
            9.0 if alarm else 1.1,
            None,
            0.2,
            Verdict.ALARM if alarm else Verdict.VALID,
            "does not fit" if alarm else "",
        )
        expected = frame.intensity
        return Posterior(
            density(frame.geometry.pixel_size_m),
            mean,
            std,
            samples,
            {"phase_range_rad": np.ptp(samples[:, 0], axis=(1, 2))},
            {"phase_range_rad": "rad"},
            Prediction(expected, expected, expected),
            trust,
            origin=frame.origin,
            latency_s=0.001,
            place=frame.place,
        )


def raw_scan(where=None):
    """Yield the documents of a scan of `eiger` with motors `sam_y` and `sam_x`, in pixels of the object."""
    import event_model

    where = places() if where is None else where
    said = {"geometry": {"object_pixel_m": 2e-8, "wavelength_m": 1e-10}, "positions": ["sam_y", "sam_x"]}
    run = event_model.compose_run(metadata={"nfphasing": said})
    yield "start", run.start_doc
    keys = {
        "eiger": {"source": "sim", "dtype": "array", "shape": [SIDE, SIDE]},
        "sam_y": {"source": "sim", "dtype": "number", "shape": [], "units": "px"},
        "sam_x": {"source": "sim", "dtype": "number", "shape": [], "units": "px"},
    }
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", bundle.descriptor_doc
    for image, (row, column) in zip(counts(where), where, strict=True):
        data = {"eiger": image.astype(np.int64), "sam_y": row, "sam_x": column}
        yield "event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0))
    yield "stop", run.compose_stop()


def deviation(mean, std):
    """Deviation of an object (Y, X) from the truth over its std, after one global phase; NaN where unseen."""
    truth = known_object()
    seen = np.isfinite(mean)
    weight = np.where(seen, 1 / np.where(seen, std, 1) ** 2, 0)
    turn = np.sum(np.where(seen, weight * mean * truth.conj(), 0))
    return np.abs(mean * np.conj(turn / abs(turn)) - truth) / np.abs(truth) / std
