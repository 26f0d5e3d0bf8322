"""Ptychographic scans in CXI files, NXcxi_ptycho and what older codes wrote."""

from collections.abc import Iterable

import h5py
import hdf5plugin  # noqa: F401 - registers the filters that detectors compress with
import numpy as np
from numpy.typing import NDArray

_DETECTOR = "instrument_1/detector_1"
_PLACES = {
    "data": ("data_1/data", f"{_DETECTOR}/data"),
    "translation_m": (
        "sample_1/geometry_1/translation",
        "data_1/translation",
        f"{_DETECTOR}/translation",
        "sample_1/transformations/translation",
    ),
    "probe": (
        "instrument_1/source_1/illumination",
        "instrument_1/source_1/probe",
        f"{_DETECTOR}/probe",
        "instrument_1/probe_1/data",
    ),
    "mask": (f"{_DETECTOR}/mask",),
    "distance_m": (f"{_DETECTOR}/distance",),
    "wavelength_m": ("instrument_1/source_1/wavelength", "instrument_1/beam_1/wavelength"),
}
_ENERGIES = ("instrument_1/source_1/energy", "instrument_1/beam_1/energy")
_PIXELS = (f"{_DETECTOR}/y_pixel_size", f"{_DETECTOR}/x_pixel_size")
_HC_J_M = 1.98644586e-25
_JOULES = {"": 1.0, "j": 1.0, "joule": 1.0, "ev": 1.602176634e-19, "kev": 1.602176634e-16}


def is_cxi(file: h5py.File) -> bool:
    """Return whether a file has the first entry of a CXI file with data in it."""
    entry = file.get("entry_1")
    return isinstance(entry, h5py.Group) and _first(entry, _PLACES["data"]) is not None


def read_cxi(file: h5py.File, names: Iterable[str] = tuple(_PLACES)) -> dict[str, NDArray]:
    """Read the first entry under the names that scans go by here.

    `translation_m` are x, y, z in metres, as CXI has them; a pixel is masked where any bit of `mask` is set;
    energies are joules unless their `units` say eV or keV.
    """
    entry = file["entry_1"]
    values = {}
    for name in names:
        found = _first(entry, _PLACES[name])
        if found is not None:
            values[name] = found[()]
    if "mask" in values and values["mask"].ndim == 3:
        # a mask for each frame, mostly the same one: what is bad in any is left out in all
        values["mask"] = (values["mask"] != 0).any(0)
    pixels = [np.ravel(item[()]) for path in _PIXELS if (item := _first(entry, (path,))) is not None]
    if pixels:
        values["pixel_size_m"] = np.concatenate(pixels)
    energy = _first(entry, _ENERGIES)
    if "wavelength_m" not in values and energy is not None:
        factor = _JOULES.get(_units(energy))
        value = float(np.ravel(energy[()])[0])
        if factor is not None and value > 0:
            values["wavelength_m"] = np.array(_HC_J_M / (factor * value))
    return values


def _first(entry: h5py.Group, paths: Iterable[str]) -> h5py.Dataset | None:
    for path in paths:
        item = entry.get(path)
        if isinstance(item, h5py.Dataset):
            return item
    return None


def _units(item: h5py.Dataset) -> str:
    units = item.attrs.get("units", "")
    return (units.decode() if isinstance(units, bytes) else str(units)).strip().lower()
