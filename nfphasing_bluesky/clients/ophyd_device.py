"""The Tango device for plans (ophyd): density and trust as signals, and a trigger that waits for the frame.

reconstruction = reconstruction_device("lab/nfphasing/1", name="reconstruction")
RE.subscribe(reconstruction.follow)

def plan():
    yield from bps.trigger_and_read([detector])                             # a frame
    yield from bps.trigger_and_read([reconstruction], name="reconstruction")  # what it shows
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tango
from ophyd import Component, Device, Kind
from ophyd.signal import Signal
from ophyd.status import DeviceStatus

from nfphasing_bluesky.clients.plan_device import LastFrame, signal_names, too_late

_PERIOD_S = 0.02
_NOTHING: Mapping[type, Any] = {str: "", int: 0, float: float("nan")}


class TangoSignal(Signal):
    """One attribute, read when it is asked for; NaN (or empty text) where Tango calls it invalid."""

    def __init__(self, attribute: str, *, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        device, _, self._attribute = attribute.rpartition("/")
        self._proxy = tango.DeviceProxy(device)
        info = self._proxy.get_attribute_config(self._attribute)
        self._units = info.unit
        self._array = info.data_format != tango.AttrDataFormat.SCALAR
        self._shape: tuple[int, ...] = (info.max_dim_x,)
        texts, wholes = (tango.DevString,), (tango.DevLong, tango.DevLong64)
        self._type = str if info.data_type in texts else int if info.data_type in wholes else float

    def get(self, **kwargs: Any) -> Any:
        """Read the attribute."""
        value = self._proxy.read_attribute(self._attribute).value
        if not self._array:
            return _NOTHING[self._type] if value is None else value
        if value is not None:
            self._shape = np.shape(value)
        return np.full(self._shape, np.nan) if value is None else np.asarray(value)

    def read(self) -> dict[str, Any]:
        """Read as a plan does."""
        return {self.name: {"value": self.get(), "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        """Describe with the attribute's unit."""
        kinds = {str: "string", int: "integer", float: "number"}
        shape = list(np.shape(self.get())) if self._array else []
        key = {"dtype": "array" if self._array else kinds[self._type], "shape": shape, "units": self._units}
        return {self.name: {"source": f"tango:{self._proxy.dev_name()}/{self._attribute}", **key}}


class Reconstruction(Device):
    """What all devices share; `reconstruction_device` adds the signals of the model that is loaded."""

    timeout_s = 30.0
    stream = "primary"

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._last = LastFrame(name, self.stream)

    def follow(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take the RunEngine's documents (`RE.subscribe(device.follow)`): they name the last frame."""
        self._last.follow(name, doc)

    def trigger(self) -> DeviceStatus:
        """Wait until the frame taken last is reconstructed, or has failed."""
        status = DeviceStatus(self)
        threading.Thread(target=self._wait, args=(status,), daemon=True).start()
        return status

    def _wait(self, status: DeviceStatus) -> None:
        try:
            wanted, deadline = self._last.frame, time.monotonic() + self.timeout_s
            while not self._is_done(*wanted):
                if time.monotonic() > deadline:
                    raise too_late(wanted, self.timeout_s, self.prefix)
                time.sleep(_PERIOD_S)
            status.set_finished()
        except Exception as error:  # whatever it is, the plan must hear of it
            status.set_exception(error)

    def _is_done(self, raw_uid: str, seq_num: int) -> bool:
        return bool(self.raw_uid.get() == raw_uid and self.seq_num.get() >= seq_num)


def reconstruction_device(device: str, *, name: str) -> Reconstruction:
    """Connect to a Tango device and make signals of its trust, density and parameters.

    Args:
        device: Tango name; the model must be loaded, because it brings the parameters.
        name: of the ophyd device.

    Raises:
        TransportError: it does not answer, or has no model.
    """
    names = signal_names(device)
    members = {
        one: Component(TangoSignal, f"/{one}", kind=Kind.hinted if one in names.hinted else Kind.normal)
        for one in names.wanted
    }
    return type("NfPhasingDevice", (Reconstruction,), members)(device, name=name)
