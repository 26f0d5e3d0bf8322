"""Read one scan's reconstructions back: from the catalog, over Tango, and by replaying the raw run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nfphasing_bluesky.core import Failure, Frame, StorageError, StreamSettings, TransportError
from nfphasing_bluesky.documents.keys import Document
from nfphasing_bluesky.documents.router import FrameRouter
from nfphasing_bluesky.storage.catalogs import RAW
from nfphasing_bluesky.storage.ptychography import beam_of
from nfphasing_bluesky.storage.queries import density_dataset

if TYPE_CHECKING:
    import tango
    from tiled.client.container import Container


@dataclass(frozen=True, eq=False)
class FrameLine:
    """What one place says about one frame.

    Args:
        seq_num: of the frame in its raw run.
        sample: what was in the beam; empty where that is not known.
        parameters: name -> (median, standard deviation).
        reduced_chi2, verdict, latency_s: as in the derived run; over Tango the latency includes the queue.
        mean, std: of the density.
        seconds: when it was measured, since the run began; NaN where that is not known.
        modes: weights of its answers, the heaviest first; empty where a model gives one.
    """

    seq_num: int
    sample: str
    parameters: Mapping[str, tuple[float, float]]
    reduced_chi2: float
    verdict: str
    latency_s: float
    mean: np.ndarray = field(repr=False)
    std: np.ndarray = field(repr=False)
    seconds: float = math.nan
    modes: tuple[float, ...] = ()


def stored_lines(raw: Any, derived: Any, sample_key: str, parameters: Sequence[str]) -> list[FrameLine]:
    """Read every frame of a derived run from the catalog.

    Args:
        raw: the raw run.
        derived: the derived run.
        sample_key: data key of the raw run that names the sample.
        parameters: names of those to read.

    Raises:
        StorageError: the derived run has no frames.
    """
    density = density_dataset(derived)
    data = raw["primary"].read()
    samples = [str(value) for value in np.asarray(data[sample_key])]
    times = np.asarray(data["time"], dtype=np.float64)
    lines = []
    for row in range(density.sizes["time"]):
        one = density.isel(time=row)
        seq_num = int(one["raw_seq_num"])
        lines.append(
            FrameLine(
                seq_num=seq_num,
                sample=samples[seq_num - 1],
                parameters={name: (float(one[name]), float(one[f"{name}_std"])) for name in parameters},
                reduced_chi2=float(one["reduced_chi2"]),
                verdict=str(one["verdict"].item()),
                latency_s=float(one["latency_s"]),
                mean=first_image(one["density_mean"]),
                std=first_image(one["density_std"]),
                seconds=float(times[seq_num - 1] - times[0]),
                modes=_weights(one["mode_weight"]) if "mode_weight" in one else (),
            )
        )
    return lines


def first_image(density: Any) -> np.ndarray:
    """A density as Tango has it: of several images the first."""
    values = np.asarray(density)
    return values[0] if values.ndim == 3 else values


def _weights(values: Any) -> tuple[float, ...]:
    """Weights of the answers that there are."""
    return tuple(float(weight) for weight in np.asarray(values) if weight > 0)


def stored_ledger(derived: Any) -> dict[str, float]:
    """Read the ledger of a derived run."""
    ledger = derived["ledger"].read()
    names = ("received", "reconstructed", "dropped", "failed", "latency_p50_s", "latency_p99_s")
    return {name: float(np.asarray(ledger[name])[0]) for name in names}


def tango_line(proxy: "tango.DeviceProxy", parameters: Sequence[str], answers: bool = False) -> FrameLine:
    """Read the last frame's attributes from the device; with `answers`, their weights too."""

    def value(name: str) -> Any:
        return proxy.read_attribute(name).value

    return FrameLine(
        seq_num=int(value("seq_num")),
        sample="",
        parameters={name: (float(value(name)), float(value(f"{name}_std"))) for name in parameters},
        reduced_chi2=float(value("reduced_chi2")),
        verdict=str(value("verdict")),
        latency_s=float(value("latency")),
        mean=np.asarray(value("density_mean")),
        std=np.asarray(value("density_std")),
        modes=_weights(value("mode_weight")) if answers else (),
    )


def check_same(stored: FrameLine, served: FrameLine) -> None:
    """Compare what the catalog and Tango say about one frame.

    Raises:
        TransportError: they differ; names what and by how much.
    """
    pairs: dict[str, tuple[Any, Any]] = {
        "seq_num": (stored.seq_num, served.seq_num),
        "reduced_chi2": (stored.reduced_chi2, served.reduced_chi2),
        "density_mean": (stored.mean, served.mean),
        "density_std": (stored.std, served.std),
        "mode_weight": (stored.modes, served.modes),
        **{name: (value, served.parameters[name]) for name, value in stored.parameters.items()},
    }
    wrong = [name for name, (ours, theirs) in pairs.items() if not same(ours, theirs)]
    if stored.verdict != served.verdict:
        wrong.append(f"verdict ({stored.verdict}, {served.verdict})")
    if wrong:
        raise TransportError(
            f"frame {stored.seq_num}: catalog and Tango attributes differ in {', '.join(wrong)}, "
            "expected the same; does another worker write to this catalog or serve this device?"
        )


def same(ours: Any, theirs: Any, relative: float = 1e-6) -> bool:
    """Return whether two numbers or arrays agree to a part of the larger one's greatest value."""
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    finite = np.isfinite(a)
    if not finite.any():
        return True
    return bool(
        np.abs(a - b)[finite].max() <= relative * max(np.abs(a[finite]).max(), np.abs(b[finite]).max())
    )


class _Frames:
    """Keeps what a router finds."""

    def __init__(self) -> None:
        self.frames: list[Frame | Failure] = []

    def run_started(self, start: Document) -> None:
        """Nothing to do."""

    def frame(self, frame: Frame | Failure) -> None:
        """Keep a frame."""
        self.frames.append(frame)

    def run_stopped(self, raw_uid: str, exit_status: str, reason: str) -> None:
        """Nothing to do."""


def stored_frames(catalog: "Container", raw_uid: str, settings: StreamSettings | None = None) -> list[Frame]:
    """Read the frames of a raw run from the catalog, by its documents, as a worker would see them.

    Args:
        catalog: with the raw run.
        raw_uid: of the run.
        settings: of the stream; None to find the frames.

    Raises:
        StorageError: a frame cannot be read back.
    """
    found = _Frames()
    settings = settings or StreamSettings()
    router = FrameRouter(found, settings, beam=beam_of(settings))
    for name, doc in catalog[RAW][raw_uid].documents():
        router(name, doc)
    frames = []
    for item in found.frames:
        if isinstance(item, Failure):
            raise StorageError(f"frame {item.origin.seq_num} of {raw_uid} cannot be replayed: {item.reason}")
        frames.append(item)
    return frames
