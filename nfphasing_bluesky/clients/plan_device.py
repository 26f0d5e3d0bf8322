"""What the ophyd and the ophyd-async device share: their signals, and which frame a plan took last."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tango

from nfphasing_bluesky.core import TransportError

_TRUST = ("verdict", "reason", "reduced_chi2", "ess_fraction", "ood_score", "raw_uid", "seq_num", "latency")
_DENSITY = ("density_mean", "density_std")


@dataclass(frozen=True)
class SignalNames:
    """Attributes of a device that a plan reads, and which of them are worth a live table's column."""

    wanted: tuple[str, ...]
    hinted: frozenset[str]


def signal_names(device: str) -> SignalNames:
    """Ask a Tango device for its trust, density and parameters.

    Raises:
        TransportError: it does not answer, or has no model, which brings the parameters.
    """
    try:
        names = set(tango.DeviceProxy(device).get_attribute_list())
    except tango.DevFailed as error:
        raise TransportError(f"{device} does not answer: {error.args[0].desc}") from error
    if "density_mean" not in names:
        raise TransportError(f"{device} has no model; use LoadModel, then connect again")
    parameters = sorted(n for n in names if f"{n}_std" in names)
    wanted = (*_TRUST, *_DENSITY, *parameters, *(f"{n}_std" for n in parameters))
    return SignalNames(wanted, frozenset({*parameters, "reduced_chi2"}))


class LastFrame:
    """Follows a RunEngine's documents and knows the last frame of a stream.

    Args:
        device: name of the device that asks, for errors.
        stream: of the frames.
    """

    def __init__(self, device: str, stream: str = "primary") -> None:
        self._device, self._stream = device, stream
        self._run, self._descriptors = "", set[str]()
        self._frame: tuple[str, int] | None = None

    def follow(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._run, self._descriptors, self._frame = doc["uid"], set(), None
        elif name == "descriptor" and doc.get("name") == self._stream:
            self._descriptors.add(doc["uid"])
        elif doc.get("descriptor") in self._descriptors:
            last = {
                "event": lambda: doc["seq_num"],
                "event_page": lambda: doc["seq_num"][-1],
                "stream_datum": lambda: doc["seq_nums"]["stop"] - 1,
            }
            if name in last:
                self._frame = (self._run, int(last[name]()))

    @property
    def frame(self) -> tuple[str, int]:
        """Raw uid and sequence number of the last frame.

        Raises:
            TransportError: there is none, or nobody told of it.
        """
        if self._frame is None:
            raise TransportError(
                f"{self._device} knows of no frame of stream {self._stream!r}: was RE.subscribe("
                f"{self._device}.follow) called?"
            )
        return self._frame


def too_late(frame: tuple[str, int], timeout_s: float, device: str) -> TransportError:
    """What to raise for a frame that was not reconstructed in time."""
    return TransportError(
        f"frame {frame[1]} of run {frame[0][:8]} was not reconstructed within {timeout_s:g} s; "
        f"see the status of {device}"
    )
