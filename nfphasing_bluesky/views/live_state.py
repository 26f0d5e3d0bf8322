"""What a live view knows: the latest density and the course of the parameters."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Axis, DensityInfo, ModelInfo, Posterior, Verdict, is_transmission, parts_of


@dataclass(frozen=True, eq=False)
class LiveDensity:
    """u of one frame: what it is, on which axes; mean and standard deviation, the density's shape.

    Of phase and absorption it is the phase.
    """

    info: DensityInfo
    mean: NDArray[np.floating]
    std: NDArray[np.floating]

    @classmethod
    def of(cls, info: DensityInfo, mean: NDArray[np.floating], std: NDArray[np.floating]) -> "LiveDensity":
        """Take what can be drawn of a density. The std of an object is an image already."""
        if not is_transmission(info):
            return cls(info, mean, std)
        return cls(parts_of(info)[0], mean[0], std[0] if std.ndim == mean.ndim else std)


@dataclass(frozen=True)
class LivePoint:
    """One frame in the course of a scan. `parameters`: name -> (value, standard deviation)."""

    number: int
    verdict: Verdict
    reason: str
    reduced_chi2: float
    latency_s: float
    parameters: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state at one moment. `load_density` reads from files where it must: call it without any lock."""

    title: str
    units: Mapping[str, str]
    received: int
    points: Sequence[LivePoint]
    load_density: Callable[[], LiveDensity | None]


@dataclass(frozen=True, eq=False)
class _Stored:
    """Rows of one array in a file: rows `first` and on belong to events from `first_seq_num` on."""

    path: Path
    dataset: str
    first: int
    first_seq_num: int
    stop_seq_num: int


class _Rows:
    """Where the latest row of a stream's mean and standard deviation is."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.descriptor: Mapping[str, Any] = {}
        self._names = (f"{stream}_mean", f"{stream}_std")
        # The latest block is announced before its events come: until then its predecessor is shown.
        self._stored: dict[str, deque[_Stored]] = {name: deque(maxlen=2) for name in self._names}
        self.last_seq_num = 0

    def owns(self, doc: Mapping[str, Any]) -> bool:
        """Return whether a document is of this stream."""
        return bool(doc["descriptor"] == self.descriptor.get("uid"))

    def locate(self, doc: Mapping[str, Any], resource: Mapping[str, Any]) -> None:
        """Remember where the rows of the latest block are."""
        if resource["data_key"] not in self._names:
            return
        self._stored[resource["data_key"]].append(
            _Stored(
                path=Path(unquote(urlparse(resource["uri"]).path)),
                dataset=resource["parameters"]["dataset"],
                first=doc["indices"]["start"],
                first_seq_num=doc["seq_nums"]["start"],
                stop_seq_num=doc["seq_nums"]["stop"],
            )
        )

    def loader(self) -> Callable[[], LiveDensity | None]:
        """Return what reads the latest row from its file."""
        places = [self._place(name) for name in self._names]
        descriptor, data_key = self.descriptor, self._names[0]

        def load() -> LiveDensity | None:
            rows = [_read(place) for place in places]
            if rows[0] is None or rows[1] is None:
                return None
            return _described(descriptor, data_key, rows[0], rows[1])

        return load

    def _place(self, name: str) -> tuple[_Stored, int] | None:
        for stored in self._stored[name]:
            if stored.first_seq_num <= self.last_seq_num < stored.stop_seq_num:
                return stored, stored.first + self.last_seq_num - stored.first_seq_num
        return None


@dataclass(eq=False)
class LiveState:
    """Collects derived documents or posteriors. Cheap to feed; arrays in files are read when asked for.

    Where the run has a stitched object, that is shown in place of the latest frame's density.

    Args:
        history: frames kept for the course of the parameters.
    """

    history: int = 1000
    title: str = ""
    units: dict[str, str] = field(default_factory=dict)
    received: int = 0

    def __post_init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        """Forget everything of the run before."""
        self.received = 0
        self._points: deque[LivePoint] = deque(maxlen=self.history)
        self._density: LiveDensity | None = None
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._frames, self._object = _Rows("density"), _Rows("object")

    def take_posterior(self, posterior: Posterior, info: ModelInfo) -> None:
        """Take one posterior."""
        density = posterior.density
        self.title = f"{posterior.origin.label}   ·   {info.name}"
        self.units = dict(posterior.units)
        summaries = posterior.summary().items()
        self._density = LiveDensity.of(density, posterior.mean, posterior.std)
        self._add(
            LivePoint(
                number=posterior.origin.seq_num or self.received + 1,
                verdict=posterior.trust.verdict,
                reason=posterior.trust.reason,
                reduced_chi2=posterior.trust.reduced_chi2,
                latency_s=posterior.latency_s,
                parameters={name: (summary.median, summary.std) for name, summary in summaries},
            )
        )

    def take_document(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of a derived run; documents of other runs and streams are ignored."""
        if name == "start":
            self._start(doc)
        elif name == "descriptor" and doc.get("name") == "density":
            self._describe(doc)
        elif name == "descriptor" and doc.get("name") == "object":
            self._object.descriptor = doc
        elif name == "stream_resource":
            self._resources[doc["uid"]] = doc
        elif name == "stream_datum":
            for rows in (self._frames, self._object):
                if rows.owns(doc):
                    rows.locate(doc, self._resources[doc["stream_resource"]])
        elif name in ("event", "event_page") and self._frames.owns(doc):
            self._events(doc, paged=name == "event_page")
        elif name in ("event", "event_page") and self._object.owns(doc):
            self._object.last_seq_num = doc["seq_num"][-1] if name == "event_page" else doc["seq_num"]

    def snapshot(self) -> Snapshot:
        """Return what is known now."""
        return Snapshot(
            self.title, dict(self.units), self.received, tuple(self._points), self._density_loader()
        )

    def _density_loader(self) -> Callable[[], LiveDensity | None]:
        """Return what gives u of the latest frame: at once from a posterior, from its file otherwise."""
        if self._density is not None or not self._points:
            known = self._density
            return lambda: known
        return (self._object if self._object.last_seq_num else self._frames).loader()

    def _start(self, doc: Mapping[str, Any]) -> None:
        """Begin again with a new derived run; a raw run is none of our business."""
        if "original_run_uid" not in doc:
            return
        model = doc.get("nfphasing", {}).get("model", "")
        self.title = f"scan {doc.get('scan_id', '')} ({str(doc['original_run_uid'])[:8]})   ·   {model}"
        self._clear()

    def _describe(self, doc: Mapping[str, Any]) -> None:
        """Remember the stream and the units of its parameters: those named with a `_std` beside them."""
        self._frames.descriptor = doc
        keys = doc["data_keys"]
        names = [name for name in keys if f"{name}_std" in keys]
        self.units = {name: keys[name].get("units") or "" for name in names}

    def _events(self, doc: Mapping[str, Any], paged: bool) -> None:
        """Take one event or a page of them."""
        rows = len(doc["seq_num"]) if paged else 1
        for index in range(rows):
            data = {key: value[index] if paged else value for key, value in doc["data"].items()}
            number = self._frames.last_seq_num = doc["seq_num"][index] if paged else doc["seq_num"]
            self._add(
                LivePoint(
                    number=int(data.get("raw_seq_num", number)),
                    verdict=Verdict(data["verdict"]),
                    reason=data.get("reason", ""),
                    reduced_chi2=float(data["reduced_chi2"]),
                    latency_s=float(data["latency_s"]),
                    parameters={name: (float(data[name]), float(data[f"{name}_std"])) for name in self.units},
                )
            )

    def _add(self, point: LivePoint) -> None:
        """Append one frame."""
        self._points.append(point)
        self.received += 1


def _read(place: tuple[_Stored, int] | None) -> NDArray[np.floating] | None:
    """Read one row, also from a file that is still being written."""
    if place is None:
        return None
    stored, row = place
    with h5py.File(stored.path, "r", libver="latest", swmr=True) as file:
        return file[stored.dataset][row]


def _described(
    descriptor: Mapping[str, Any], name: str, mean: NDArray[np.floating], std: NDArray[np.floating]
) -> LiveDensity:
    """Put axes, labels and units of the stream's descriptor to two rows."""
    data_key = descriptor["data_keys"][name]
    configuration = next(iter(descriptor["configuration"].values()))
    data, keys = configuration["data"], configuration["data_keys"]
    axes = tuple(
        Axis(name, np.asarray(data[name], dtype=np.float64), keys[name].get("units", ""))
        for name in data_key["dims"]
    )
    info = DensityInfo(data.get("quantity", "density"), data_key.get("units", ""), axes)
    return LiveDensity.of(info, mean, std)
