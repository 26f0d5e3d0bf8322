"""One stitched object in one NeXus/HDF5 file, with what became of each frame."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    Axis,
    Failure,
    ModelInfo,
    Posterior,
    ReconstructionSettings,
    StitchedObject,
    Trust,
    Verdict,
)
from nfphasing_bluesky.storage.nexus_parts import new_dataset, new_group, say_plot, write_process, write_whole
from nfphasing_bluesky.storage.read_nexus import opened

FAILED = "FAILED"
"""Verdict of a frame that was not reconstructed."""

_GOOD_SHARE = 0.9
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class FrameRecord:
    """What became of one frame of a scan; `place` is NaN where it is not known."""

    seq_num: int
    place: tuple[float, float]
    verdict: str
    reason: str = ""
    reduced_chi2: float = float("nan")
    ess_fraction: float = float("nan")
    ood_score: float = float("nan")
    latency_s: float = float("nan")

    @classmethod
    def of(cls, result: Posterior | Failure) -> "FrameRecord":
        """Condense a reconstructor's answer."""
        number = result.origin.seq_num
        if isinstance(result, Failure):
            return cls(number, (float("nan"), float("nan")), FAILED, result.reason)
        trust = result.trust
        return cls(
            number,
            result.place or (float("nan"), float("nan")),
            str(trust.verdict),
            trust.reason,
            float(trust.reduced_chi2),
            float("nan") if trust.ess_fraction is None else float(trust.ess_fraction),
            float(trust.ood_score),
            float(result.latency_s),
        )


def scan_trust(found: StitchedObject, records: Sequence[FrameRecord]) -> Trust:
    """Judge an object by its frames: medians of their checks, and a verdict with its reason.

    VALID when nine in ten frames are and all of it is connected; ALARM when most of its pixels rest on frames
    that are not to be trusted, or not even half of the frames could be used.
    """
    counts = Counter(record.verdict for record in records)
    total = len(records)
    told = [_alarmed(found, records)] if counts[str(Verdict.ALARM)] else []
    for n, word in (
        (counts[str(Verdict.WARNING)], "doubtful"),
        (found.left_out, "left out: nothing finite"),
        (counts[FAILED], "failed"),
    ):
        if n:
            told.append(f"{n} of {total} frames {word}")
    if found.components > 1:
        told.append(f"{found.components} parts without overlap, the phase between them is unknown")
    verdict = Verdict.VALID
    if counts[str(Verdict.VALID)] < _GOOD_SHARE * total or found.components > 1:
        verdict = Verdict.WARNING
    if found.doubtful or total - counts[FAILED] - found.left_out < _LEAST_SHARE * total:
        verdict = Verdict.ALARM
    if counts[str(Verdict.VALID)] + counts[str(Verdict.WARNING)] == 0:
        told.insert(0, "no frame is to be trusted, nor is the object")
    chi2, ess, ood = (
        np.array([getattr(r, name) for r in records], dtype=np.float64)
        for name in ("reduced_chi2", "ess_fraction", "ood_score")
    )
    return Trust(
        reduced_chi2=_median(chi2),
        ess_fraction=_median(ess) if np.isfinite(ess).any() else None,
        ood_score=_median(ood),
        verdict=verdict,
        reason="" if verdict is Verdict.VALID else "; ".join(told),
    )


def _alarmed(found: StitchedObject, records: Sequence[FrameRecord]) -> str:
    """What is said of the frames with an ALARM."""
    chi2 = np.array([r.reduced_chi2 for r in records if r.verdict == str(Verdict.ALARM)])
    misfit = f" (median reduced chi-squared {_median(chi2):.3g})" if np.isfinite(chi2).any() else ""
    return (
        f"{found.doubtful_share:.0%} of the pixels rest on {len(chi2)} of {len(records)} frames that are not "
        f"to be trusted{misfit}, with error bars as wide as their misfit"
    )


def write_object(
    path: str | Path,
    found: StitchedObject,
    records: Sequence[FrameRecord],
    info: ModelInfo,
    settings: ReconstructionSettings,
    latency_s: float = float("nan"),
    probe: NDArray[np.complexfloating] | None = None,
) -> Path:
    """Write an object, whole or not at all.

    `/entry/object`: `mean` (complex transmission), `std` (of it, relative to its modulus), `component`,
    `doubted` (1 where it rests on ALARM frames) and the axes; `/entry/phase` (NXdata, the default plot) and
    `/entry/amplitude`: the same as real images; `/entry/frames`: a column for each of `FrameRecord`'s fields;
    `/entry/probe`; `/entry/process`; `/entry/trust`.

    Args:
        path: of the file, replaced when it exists; its folder is created.
        found: what to write.
        records: of every frame of the scan.
        info: the model.
        settings: how the model was run.
        latency_s: of the whole scan.
        probe: (P, H, W) that was used, photons^(1/2); the file then serves as that of the next scan's probe.

    Returns:
        The path written.

    Raises:
        StorageError: disk full, no permission and the like; an earlier file of that name is then untouched.
    """

    def write(file: h5py.File) -> None:
        file.attrs.update(NX_class="NXroot", default="entry", creator="nfphasing-bluesky")
        entry = new_group(file, "entry", "NXentry")
        entry.attrs["default"] = "phase"
        entry["title"] = f"object of {found.frames} frames"
        _write_object(entry, found)
        phase, _ = found.parts
        _write_image(entry, "phase", phase, "rad")
        _write_image(entry, "amplitude", np.abs(found.mean), "1")
        _write_frames(entry, records)
        if probe is not None:
            new_dataset(entry, "probe", probe.astype(np.complex64), "photons^(1/2)")
        write_process(entry, latency_s, info, settings)
        _write_trust(entry, scan_trust(found, records))

    return write_whole(path, write)


def read_object(path: str | Path) -> StitchedObject:
    """Read back what `write_object` wrote.

    Raises:
        StorageError: the file is damaged or holds something else.
    """
    with opened(Path(path)) as file:
        group = file["entry/object"]
        row, column = (int(n) for n in group.attrs["place"])
        y, x = (Axis(name, group[name][()], str(group[name].attrs["units"])) for name in ("y", "x"))
        return StitchedObject(
            group["mean"][()],
            group["std"][()],
            group["component"][()],
            (row, column),
            int(group.attrs["frames"]),
            int(group.attrs["left_out"]),
            (y, x),
            group["doubted"][()].astype(bool),
        )


def _write_object(entry: h5py.Group, found: StitchedObject) -> None:
    group = new_group(entry, "object", "NXdata")
    say_plot(group, "mean", ("y", "x"))
    group["title"] = "transmission"
    group.attrs.update(place=found.place, frames=found.frames, left_out=found.left_out)
    for axis in found.axes:
        new_dataset(group, axis.name, axis.values, axis.units).attrs["long_name"] = (
            f"{axis.name} ({axis.units})"
        )
    new_dataset(group, "mean", found.mean.astype(np.complex64), "1")
    std = new_dataset(group, "std", found.std.astype(np.float32), "1")
    std.attrs["long_name"] = "standard deviation of the transmission over its modulus"
    group.create_dataset("component", data=found.component)
    group.create_dataset("doubted", data=found.doubted.astype(np.uint8))


def _write_image(entry: h5py.Group, name: str, image: np.ndarray, units: str) -> None:
    group = new_group(entry, name, "NXdata")
    say_plot(group, name, ("y", "x"))
    label = f"{name} (rad)" if units == "rad" else name
    new_dataset(group, name, image.astype(np.float32), units).attrs["long_name"] = label
    for axis in ("y", "x"):
        group[axis] = entry["object"][axis]


def _write_frames(entry: h5py.Group, records: Sequence[FrameRecord]) -> None:
    group = new_group(entry, "frames", "NXcollection")
    text = h5py.string_dtype()
    group["seq_num"] = np.array([r.seq_num for r in records], dtype=np.int64)
    places = np.array([r.place for r in records], dtype=np.float64).reshape(-1, 2)
    for index, name in enumerate(("row", "column")):
        new_dataset(group, name, places[:, index], "px")
    for name in ("verdict", "reason"):
        group[name] = np.array([getattr(r, name) for r in records], dtype=text)
    for name, units in (("reduced_chi2", "1"), ("ess_fraction", "1"), ("ood_score", "1"), ("latency_s", "s")):
        new_dataset(group, name, np.array([getattr(r, name) for r in records], dtype=np.float64), units)


def _write_trust(entry: h5py.Group, trust: Trust) -> None:
    group = new_group(entry, "trust", "NXcollection")
    for name in ("reduced_chi2", "ess_fraction", "ood_score"):
        value = getattr(trust, name)
        if value is not None:
            new_dataset(group, name, value, "1")
    group["verdict"], group["reason"] = str(trust.verdict), trust.reason


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
