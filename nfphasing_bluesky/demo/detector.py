"""An ophyd detector of reduced 1-D curves, and one that replays curves that were measured."""

import logging
import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component, Device, Kind, Signal
from ophyd.status import DeviceStatus

from nfphasing_bluesky.core import CurveGeometry, Frame, FrameError

log = logging.getLogger(__name__)


class ArraySignal(Signal):
    """A signal that holds an array and says its units and dtype when it is described."""

    def __init__(self, *args: Any, units: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.units = units

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return ophyd's description with `units` and `dtype_numpy`."""
        described = super().describe()
        described[self.name].update(units=self.units, dtype_numpy=np.asarray(self.get()).dtype.str)
        return described


class CurveDetector(Device):
    """A detector whose every exposure is one curve: intensity, sigma, q and mask, (Q,) each.

    A subclass says in `expose` what an exposure sees. Exposures have a fixed number of points, as bluesky
    streams want it; points that were not measured are NaN and masked.

    Args:
        name: of the device; its data keys are `<name>_intensity`, `<name>_sigma`, `<name>_q`, `<name>_mask`
            and `<name>_sample`.
        points: Q.
        intensity_units: as the documents spell them.
        exposure_s: what `exposure_time` starts with, s.
    """

    intensity = Component(ArraySignal, kind=Kind.hinted)
    sigma = Component(ArraySignal)
    q = Component(ArraySignal, units="1/angstrom")
    mask = Component(ArraySignal)
    sample = Component(Signal, value="")
    exposure_time = Component(Signal, value=0.1, kind=Kind.config)

    def __init__(
        self, name: str, points: int, *, intensity_units: str = "", exposure_s: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.intensity.units = self.sigma.units = intensity_units
        self.exposure_time.put(exposure_s)
        for signal in (self.intensity, self.sigma):
            signal.put(np.full(points, np.nan))
        self.q.put(np.arange(1.0, points + 1))
        self.mask.put(np.ones(points, np.uint8))

    @property
    def points(self) -> int:
        """Q, the points of every exposure."""
        return int(self.intensity.get().size)

    @abstractmethod
    def expose(self) -> Frame:
        """Return what the next exposure sees: a curve of at most `points` points with its sigma."""

    def trigger(self) -> DeviceStatus:
        """Begin an exposure; the status is finished when its curve is on the signals."""
        status = DeviceStatus(self)
        timer = threading.Timer(float(self.exposure_time.get()), self._read_out, (status,))
        timer.daemon = True
        timer.start()
        return status

    def _read_out(self, status: DeviceStatus) -> None:
        try:
            frame = self.expose()
            arrays = padded(frame, self.points)
            for name, values in arrays.items():
                getattr(self, name).put(values)
            self.sample.put(frame.origin.label)
        except Exception as error:
            log.exception("%s: the exposure failed", self.name)
            status.set_exception(error)
        else:
            status.set_finished()


class ReplayCurves(CurveDetector):
    """A detector that replays measured curves, one an exposure, over and over; staging begins anew.

    Args:
        name: of the device.
        curves: (Q,) frames with sigma, shorter ones are padded with masked points.
        exposure_s: exposure time, s.

    Raises:
        FrameError: there are no curves, or one is two-dimensional or has no sigma.
    """

    def __init__(self, name: str, curves: Sequence[Frame], *, exposure_s: float = 0.1, **kwargs: Any) -> None:
        if not curves:
            raise FrameError(f"{name}: no curves to replay, expected at least one; pass curves=")
        for frame in curves:
            _check(name, frame)
        points = max(frame.intensity.size for frame in curves)
        absolute = all(isinstance(f.geometry, CurveGeometry) and f.geometry.absolute for f in curves)
        units = "1/cm" if absolute else ""
        self._curves, self._next = tuple(curves), 0
        super().__init__(name, points, intensity_units=units, exposure_s=exposure_s, **kwargs)

    def stage(self) -> list[object]:
        """Begin with the first curve."""
        self._next = 0
        return list(super().stage())

    def expose(self) -> Frame:
        """Return the next measured curve."""
        frame = self._curves[self._next % len(self._curves)]
        self._next += 1
        return frame


def padded(frame: Frame, points: int) -> dict[str, NDArray[Any]]:
    """Return intensity, sigma, q and mask of a curve, (points,) each; NaN and masked beyond its end."""
    if not isinstance(frame.geometry, CurveGeometry) or frame.sigma is None:
        raise FrameError(f"{frame.origin.label}: expected a curve with sigma")
    q = frame.geometry.q_inv_angstrom
    missing = points - q.size
    step = q[-1] - q[-2]
    return {
        "intensity": np.pad(frame.intensity, (0, missing), constant_values=np.nan),
        "sigma": np.pad(frame.sigma, (0, missing), constant_values=np.nan),
        "q": np.concatenate([q, q[-1] + step * np.arange(1, missing + 1)]),
        "mask": np.pad(~frame.usable, (0, missing), constant_values=True).astype(np.uint8),
    }


def _check(name: str, frame: Frame) -> None:
    if not isinstance(frame.geometry, CurveGeometry):
        raise FrameError(f"{name}: {frame.origin.label} is {frame.intensity.shape}, expected a curve (Q,)")
    if frame.sigma is None:
        raise FrameError(f"{name}: {frame.origin.label} has no sigma; read it with relative_sigma=")
