"""Ptychographic scans on disk: frames, places and probe of one file, or of a file and its probe's."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    Failure,
    Frame,
    FrameError,
    GeometryError,
    NFPhasingError,
    Origin,
    StorageError,
    StreamSettings,
)
from nfphasing_bluesky.core.orientation import read_orientation
from nfphasing_bluesky.core.settings import RETRIEVE
from nfphasing_bluesky.documents.gaps import bad_of_scan
from nfphasing_bluesky.documents.ptychography import (
    NAMES as NUMBERS,
)
from nfphasing_bluesky.documents.ptychography import (
    Optics,
    as_probe,
    looks_centred,
    photon_scale,
    probe_in_photons,
    ptychography_frame,
    read_optics,
    turned,
)
from nfphasing_bluesky.documents.scan_frames import Beam
from nfphasing_bluesky.documents.scan_start import Applied, check_agreement, find_probe, is_lit, shots_of
from nfphasing_bluesky.storage.positions import ADVICE, far_off, read_positions
from nfphasing_bluesky.storage.refined_positions import refined_positions
from nfphasing_bluesky.storage.scans import Scan, mask_of, read_scan

log = logging.getLogger(__name__)

_LOOKED_AT = 64
"""Frames that scale and centre are found from."""

OnFailure = Callable[[Failure], None]


@dataclass(frozen=True)
class ScanOptions:
    """How a scan is read.

    Args:
        probe: file with the probe, over what the scan holds; `RETRIEVE` to find it from the first frames.
        positions_sign: +1 or -1, or one for rows and one for columns: with -1 the positions are the sample's
            and the beam walks the other way. By default what the scan says, else +1.
        renamed: name in the file -> name it goes by here; those of the probe count in the probe's file.
        mask: (H, W) True = not used, as the frames are stored.
        orientation: what must be done to the stored frames, a name of `core.orientation.ORIENTATIONS`.
        positions_order: "xy" where positions_px and positions_m have columns first, or x and y of
            translation_m are exchanged.
        probe_frames: how many of the first frames the probe is found from.
        check: whether frames and positions agree is looked at; frames of which they do not have a `doubt`.
        refine_positions: whether the frames may move to where they agree best, before all else.
    """

    probe: Path | None = None
    positions_sign: tuple[float, float] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None
    orientation: str = "as-is"
    positions_order: str = "yx"
    probe_frames: int = 100
    check: bool = False
    refine_positions: bool = False

    @property
    def retrieve(self) -> bool:
        """Whether the probe is to be found."""
        return self.probe is not None and str(self.probe) == RETRIEVE


def read_ptychography(path: Path, options: ScanOptions) -> Scan:
    """Read a scan and, from a file of its own, the probe.

    Raises:
        StorageError: a file cannot be read, or the probe's has none.
    """
    if options.probe is None or options.retrieve:
        return read_scan(path, options.renamed)
    probe_names = {theirs: ours for theirs, ours in options.renamed.items() if ours == "probe"}
    rest = {theirs: ours for theirs, ours in options.renamed.items() if ours != "probe"}
    return replace_probe(read_scan(path, rest), options.probe, probe_names)


def replace_probe(scan: Scan, path: Path, renamed: Mapping[str, str]) -> Scan:
    """Return a scan with the probe of another file."""
    return Scan(scan.path, {**scan.values, "probe": read_probe(path, renamed)})


def read_probe(path: Path, renamed: Mapping[str, str] | None = None) -> NDArray:
    """Read the array `probe` of a .npz, HDF5 or CXI file.

    Raises:
        StorageError: no such file, or no probe in it.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such file of a probe; check the name")
    values = read_scan(path, renamed).values
    if "probe" not in values:
        raise StorageError(
            f"{path}: no 'probe', expected complex (H, W) or (P, H, W); the file has "
            f"{', '.join(sorted(values))}; rename with --map theirs=probe"
        )
    return values["probe"]


def beam_of(settings: StreamSettings, mask: NDArray[np.bool_] | None = None) -> Beam | None:
    """What a stream's settings say of a ptychographic scan; None without a probe.

    Raises:
        StorageError: the probe's file cannot be read.
    """
    if settings.probe is None:
        return None
    signs, retrieve = settings.positions_sign, settings.retrieves_probe
    return Beam(
        None if retrieve else read_probe(settings.probe),
        settings.probe.name,
        settings.positions,
        None if signs is None else (float(signs[0]), float(signs[1])),
        mask,
        settings.orientation,
        settings.positions_order,
        settings.probe_frames,
        settings.check_frames,
    )


def ptychography_frames(
    scan: Scan, options: ScanOptions, on_failure: OnFailure | None = None
) -> Iterator[Frame]:
    """Yield the frames of a scan, each with the probe and its place.

    `data` (N, H, W) are counts; `positions_px` (N, 2) or `positions_m` are row and column of each frame's
    pixel [0, 0], with any origin, and `translation_m` (N, 2) or (N, 3) x, y and z as in CXI: column, row and
    nothing; `probe` is (H, W) or (P, H, W); `mask` is not 0 where a pixel must not be used, `mask_good` where
    it may; `background` (H, W) is what every frame counts without the object. Numbers are those of
    `documents.ptychography.NAMES`. Where a far-field scan does not say whether its direct beam is `centred`,
    its light does.

    Args:
        scan: as read.
        options: what is done to frames and positions, a further mask.
        on_failure: takes frames that cannot be used, and the others go on; without it they raise.

    Raises:
        FrameError, GeometryError: something that all frames need is missing or cannot be.
    """
    where, data = str(scan.path), _data(scan)
    turn = read_orientation(options.orientation, where)
    shape = data.shape[:0:-1] if turn.transpose else data.shape[1:]
    optics = read_optics(_numbers(scan), shape, where, ADVICE)
    mask = mask_of(scan, data.shape[1:], options.mask)
    mask = _without_bad(_some(data), mask, where)
    optics = _with_centre(optics, _some(data), mask, where)
    background = _background(scan, data.shape[1:])
    data = turned(data, turn, optics)
    mask, background = (None if v is None else turned(v, turn, optics) for v in (mask, background))
    positions, places_turn = read_positions(
        scan, optics, len(data), shape, options.positions_sign, options.positions_order
    )
    applied, outside = Applied(turn, places_turn), far_off(positions, shape)
    if options.retrieve:
        first = data[~outside][: options.probe_frames], positions[~outside][: options.probe_frames]
        found = find_probe(shots_of(*first, optics, [mask] * len(first[0])), optics)
        probe = found.probe
        log.warning("%s: the probe was %s", where, found.source)
    else:
        probe = _stored_probe(scan, shape)
        probe = probe_in_photons(probe, photon_scale(probe, _some(data), optics, mask), where)
    doubt = ""
    if options.check:
        doubt = _doubt(data, positions, mask, probe, optics, applied, where, options.retrieve)
    if options.refine_positions and not doubt:
        positions[~outside] = _refined(data[~outside], positions[~outside], mask, probe, optics, where)
    for i, (counts, (row, column)) in enumerate(zip(data, positions, strict=True)):
        origin = Origin(label=f"{scan.path.name} {i + 1}", seq_num=i + 1)
        try:
            if outside[i]:
                raise GeometryError(
                    f"{origin.label}: place {row:.4g}, {column:.4g} is far outside of what the other frames "
                    "saw, expected one that overlaps; correct its position, or leave the frame out"
                )
            yield ptychography_frame(
                counts,
                optics,
                probe,
                (row, column),
                mask=mask,
                background=background,
                origin=origin,
                doubt=doubt,
            )
        except NFPhasingError as error:
            if on_failure is None:
                raise
            on_failure(Failure(origin, f"{type(error).__name__}: {error}"))


def _some(data: NDArray) -> NDArray:
    return data[:: -(-len(data) // _LOOKED_AT)]


def _stored_probe(scan: Scan, shape: tuple[int, int]) -> NDArray[np.complexfloating]:
    if "probe" not in scan.values:
        raise FrameError(
            f"{scan.path}: no 'probe', expected complex (H, W) or (P, H, W); the file has "
            f"{', '.join(sorted(scan.values))}; pass --probe FILE, or --probe {RETRIEVE} to find it from the "
            f"first frames, or {ADVICE}"
        )
    return as_probe(scan.values["probe"], shape, str(scan.path))


def _doubt(
    data: NDArray,
    positions: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    probe: NDArray[np.complexfloating],
    optics: Optics,
    applied: Applied,
    where: str,
    retrieved: bool,
) -> str:
    """Say whether frames near the middle lie as their positions say; also in the log."""
    middle = np.nanmedian(positions, axis=0)
    near = np.argsort(np.square(positions - middle).sum(1), kind="stable")[:_LOOKED_AT]
    shots = shots_of(data[near], positions[near], optics, [mask] * len(near))
    found = check_agreement(shots, probe, optics, applied, retrieved=retrieved)
    if said := found.doubt or found.open_question:
        log.warning("%s: %s", where, said)
    return found.doubt


def _refined(
    data: NDArray,
    positions: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    probe: NDArray[np.complexfloating],
    optics: Optics,
    where: str,
) -> NDArray[np.float64]:
    """Positions of frames with light refined, the others as they were."""
    lit = [
        i
        for i, (counts, place) in enumerate(zip(data, positions, strict=True))
        if is_lit(counts, place, optics, mask)
    ]
    shots = shots_of(data[lit], positions[lit], optics, [mask] * len(lit))
    positions = positions.copy()
    positions[lit] = refined_positions(shots, probe, optics, where)
    return positions


def _data(scan: Scan) -> NDArray:
    if "data" not in scan.values:
        raise FrameError(
            f"{scan.path}: no 'data', expected counts (N, H, W); the file has "
            f"{', '.join(sorted(scan.values))}; {ADVICE}"
        )
    data = np.asarray(scan.values["data"])
    data = data[None] if data.ndim == 2 else data
    if data.ndim != 3 or data.dtype.kind not in "fiu":
        raise FrameError(f"{scan.path}: data is {data.dtype} {data.shape}, expected counts (N, H, W)")
    if not data.size:
        raise FrameError(f"{scan.path}: data has shape {data.shape}: no frame, expected at least one")
    return data


def _numbers(scan: Scan) -> dict[str, float]:
    """Numbers of the optics; a pixel may be given twice, for rows and columns."""
    numbers = {}
    for name in NUMBERS:
        value = np.asarray(scan.values.get(name, ()))
        if name.endswith(("pixel_m", "pixel_size_m")) and value.size == 2:
            first, second = (float(pixel) for pixel in value.ravel())
            if abs(first - second) > 1e-3 * abs(first):
                raise GeometryError(
                    f"{scan.path}: {name} {value.ravel().tolist()}, expected square pixels; bin or resample"
                )
            numbers[name] = float(value.mean())
        elif (number := scan.number(name)) is not None:
            numbers[name] = number
    return numbers


def _background(scan: Scan, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    if "background" not in scan.values:
        return None
    found = np.asarray(scan.values["background"], dtype=np.float64)
    if found.shape != shape:
        raise FrameError(f"{scan.path}: background {found.shape} does not match the frames {shape}")
    if not np.isfinite(found).all() or found.min() < 0:
        raise FrameError(f"{scan.path}: background from {found.min():.4g}, expected finite, not negative")
    return found


def _without_bad(some: NDArray, mask: NDArray[np.bool_] | None, where: str) -> NDArray[np.bool_] | None:
    """Mask gaps and hot pixels that show themselves, and say so."""
    bad, words = bad_of_scan(some, mask)
    if not words:
        return mask
    log.warning("%s: %s; now masked, pass --mask", where, words)
    return bad if mask is None else mask | bad


def _with_centre(optics: Optics, some: NDArray, mask: NDArray[np.bool_] | None, where: str) -> Optics:
    if optics.centred is not None:
        return optics
    mean = np.mean(np.clip(some, 0, None), axis=0)
    centred = looks_centred(mean if mask is None else np.where(mask, 0, mean))
    if not centred:
        log.warning(
            "%s: the frames have the direct beam in their corner; centred=1 in the file denies it", where
        )
    return replace(optics, centred=centred)
