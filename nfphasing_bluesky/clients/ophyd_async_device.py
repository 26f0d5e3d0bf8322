"""The Tango device for plans (ophyd-async): density and trust as signals, a trigger that waits for the frame.

async with init_devices():
    reconstruction = reconstruction_device("lab/nfphasing/1", name="reconstruction")
RE.subscribe(reconstruction.follow)

def plan():
    yield from bps.trigger_and_read([detector])                             # a frame
    yield from bps.trigger_and_read([reconstruction], name="reconstruction")  # what it shows
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tango
from numpy.typing import NDArray
from ophyd_async.core import Array1D, AsyncStatus, SignalR, StandardReadable, StandardReadableFormat
from ophyd_async.tango.core import TangoConverter, TangoSignalBackend

from nfphasing_bluesky.clients.plan_device import LastFrame, SignalNames, signal_names, too_late

_PERIOD_S = 0.02
_NOTHING: Mapping[type, Any] = {str: "", int: 0, float: float("nan")}


class Reconstruction(StandardReadable):
    """Signals of one NfPhasing device, under the names of its attributes.

    Args:
        device: Tango name.
        names: of its signals; `reconstruction_device` asks for them.
        name: of the ophyd-async device.
        timeout_s: longest that a trigger waits.
        stream: of the frames that it waits for.
    """

    raw_uid: SignalR[str]
    seq_num: SignalR[int]

    def __init__(
        self,
        device: str,
        names: SignalNames,
        name: str = "",
        timeout_s: float = 30.0,
        stream: str = "primary",
    ) -> None:
        self._device, self._timeout_s = device, timeout_s
        self._last = LastFrame(name or device, stream)
        proxy = tango.DeviceProxy(device)
        kinds = StandardReadableFormat
        for one in names.wanted:
            kind = kinds.HINTED_UNCACHED_SIGNAL if one in names.hinted else kinds.UNCACHED_SIGNAL
            with self.add_children_as_readables(kind):
                setattr(self, one, _signal(f"{device}/{one}", proxy.get_attribute_config(one)))
        super().__init__(name=name)

    def follow(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take the RunEngine's documents (`RE.subscribe(device.follow)`): they name the last frame."""
        self._last.follow(name, doc)

    @AsyncStatus.wrap
    async def trigger(self) -> None:
        """Wait until the frame taken last is reconstructed, or has failed.

        Raises:
            TransportError: nobody told of a frame, or it is not reconstructed in time.
        """
        wanted, deadline = self._last.frame, time.monotonic() + self._timeout_s
        while not await self._is_done(*wanted):
            if time.monotonic() > deadline:
                raise too_late(wanted, self._timeout_s, self._device)
            await asyncio.sleep(_PERIOD_S)

    async def _is_done(self, raw_uid: str, seq_num: int) -> bool:
        return await self.raw_uid.get_value() == raw_uid and await self.seq_num.get_value() >= seq_num


def reconstruction_device(device: str, *, name: str = "") -> Reconstruction:
    """Make a device with signals of a Tango device's trust, density and parameters; connect it then.

    Args:
        device: Tango name; the model must be loaded, because it brings the parameters.
        name: of the ophyd-async device.

    Raises:
        TransportError: it does not answer, or has no model.
    """
    return Reconstruction(device, signal_names(device), name)


class _Filled(TangoConverter):
    """NaN, 0 or empty text where Tango calls a value invalid; arrays keep the shape that they had last."""

    def __init__(self, nothing: Any) -> None:
        self._nothing = nothing

    def value(self, value: Any) -> Any:
        if value is None:
            return self._nothing
        if isinstance(value, np.ndarray):
            self._nothing = np.full(value.shape, np.nan)
        return value


class _Backend(TangoSignalBackend):
    def __init__(self, datatype: Any, trl: str, nothing: Any) -> None:
        super().__init__(datatype, trl, trl)
        self._nothing = nothing

    async def connect(self, timeout: float) -> None:
        await super().connect(timeout)
        self.converter = _Filled(self._nothing)
        self.proxies[self.read_trl].set_converter(self.converter)  # type: ignore[union-attr]


def _signal(trl: str, info: tango.AttributeInfoEx) -> SignalR[Any]:
    texts, wholes = (tango.DevString,), (tango.DevLong, tango.DevLong64)
    plain = str if info.data_type in texts else int if info.data_type in wholes else float
    datatype: Any = plain
    nothing = _NOTHING[plain]
    if info.data_format != tango.AttrDataFormat.SCALAR:
        line = info.data_format == tango.AttrDataFormat.SPECTRUM
        datatype = Array1D[np.float64] if line else NDArray[np.float64]
        nothing = np.full(info.max_dim_x if line else (1, 1), np.nan)
    return SignalR(_Backend(datatype, trl, nothing))
