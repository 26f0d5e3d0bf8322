"""Curves and detector frames from files: one door to every format."""

import codecs
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import fabio
import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Failure,
    Frame,
    FrameError,
    GeometryError,
    GrazingGeometry,
    HologramGeometry,
    Origin,
    StorageError,
)
from nfphasing_bluesky.documents.bad_pixels import BadPixels
from nfphasing_bluesky.documents.holograms import hologram_frame
from nfphasing_bluesky.documents.integration import detector_geometry_from_poni
from nfphasing_bluesky.documents.patterns import holds_pattern
from nfphasing_bluesky.storage.curves import ReadOptions, as_frame, on_scale
from nfphasing_bluesky.storage.patterns import pattern_frames
from nfphasing_bluesky.storage.ptychography import ScanOptions, ptychography_frames, read_ptychography
from nfphasing_bluesky.storage.read_canxml import read_canxml
from nfphasing_bluesky.storage.read_images import iter_images, read_mean
from nfphasing_bluesky.storage.read_nexus import (
    find_stack,
    iter_stack,
    read_nxcansas,
    read_sas_patterns,
)
from nfphasing_bluesky.storage.read_orso import is_orso, read_orso
from nfphasing_bluesky.storage.read_text import read_text
from nfphasing_bluesky.storage.scans import holds_scan, hologram_frames

ImageGeometry = DetectorGeometry | GrazingGeometry | HologramGeometry

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".cbf", ".edf", ".img", ".mccd", ".gb", ".gfrm"})


def read_frames(
    path: str | Path,
    *,
    poni: str | Path | None = None,
    geometry: ImageGeometry | None = None,
    mask: str | Path | ArrayLike | None = None,
    flat: str | Path | None = None,
    dark: str | Path | None = None,
    saturation: float | None = None,
    q_unit: str | None = None,
    columns: tuple[int, ...] | None = None,
    relative_sigma: float | None = None,
    wavelength_angstrom: float | None = None,
    q_range: tuple[float, float] | None = None,
    join: int = 1,
    intensity_unit: str | None = None,
    contrast_inv_cm2: float | None = None,
    dataset: str | None = None,
    renamed: Mapping[str, str] | None = None,
    probe: str | Path | None = None,
    positions_sign: tuple[float, float] | None = None,
    positions_order: str = "yx",
    orientation: str = "as-is",
    check: bool = False,
    refine_positions: bool = False,
    on_failure: Callable[[Failure], None] | None = None,
) -> list[Frame]:
    """Read every frame of a file; `iter_frames` with all of it in memory."""
    return list(
        iter_frames(
            path,
            poni=poni,
            geometry=geometry,
            mask=mask,
            flat=flat,
            dark=dark,
            saturation=saturation,
            q_unit=q_unit,
            columns=columns,
            relative_sigma=relative_sigma,
            wavelength_angstrom=wavelength_angstrom,
            q_range=q_range,
            join=join,
            intensity_unit=intensity_unit,
            contrast_inv_cm2=contrast_inv_cm2,
            dataset=dataset,
            renamed=renamed,
            probe=probe,
            positions_sign=positions_sign,
            positions_order=positions_order,
            orientation=orientation,
            check=check,
            refine_positions=refine_positions,
            on_failure=on_failure,
        )
    )


def iter_frames(
    path: str | Path,
    *,
    poni: str | Path | None = None,
    geometry: ImageGeometry | None = None,
    mask: str | Path | ArrayLike | None = None,
    flat: str | Path | None = None,
    dark: str | Path | None = None,
    saturation: float | None = None,
    q_unit: str | None = None,
    columns: tuple[int, ...] | None = None,
    relative_sigma: float | None = None,
    wavelength_angstrom: float | None = None,
    q_range: tuple[float, float] | None = None,
    join: int = 1,
    intensity_unit: str | None = None,
    contrast_inv_cm2: float | None = None,
    dataset: str | None = None,
    renamed: Mapping[str, str] | None = None,
    probe: str | Path | None = None,
    positions_sign: tuple[float, float] | None = None,
    positions_order: str = "yx",
    orientation: str = "as-is",
    check: bool = False,
    refine_positions: bool = False,
    on_failure: Callable[[Failure], None] | None = None,
) -> Iterator[Frame]:
    """Yield the frames of a file one by one, each with the geometry that the file or the caller knows.

    Read are text in columns (any suffix; q, I, sigma, dq as its header names them), ORSO reflectivity,
    canSAS XML 1.x, NXcanSAS (curves or patterns), detector frames in HDF5, the image formats of fabio
    (TIFF, CBF, EDF, ...), and named arrays in .npz, .cxi, or in any file with `renamed` or `probe`: with a
    probe or positions ptychographic scans, as `ptychography.ptychography_frames` says, with q of the pixels
    or a beam centre small-angle patterns, as `patterns.pattern_frames` says, else holograms, as
    `scans.hologram_frames` says. Images are returned as they are stored, neither flipped nor turned: the
    geometry must be that of the stored image. In unsigned images the largest value of the dtype marks dead
    and saturated pixels and is masked.

    Args:
        path: the file.
        poni: pyFAI PONI file, for images. `geometry` does the same; one of the two at most.
        geometry: of the detector, for images, also of one behind a surface, or of holograms; by default what
            a NeXus file says itself.
        mask: for images, (H, W) array or file (.npy or an image), masked where not zero.
        flat: for holograms, file (.npy or images) of the empty beam; of several images the mean is taken.
        dark: for holograms, file of images without light.
        saturation: for images, counts from which a pixel is not believed; by default what a scan's file says.
        q_unit: `1/angstrom` or `1/nm`; by default what the file says, else 1/angstrom. Curves that go
            beyond q = 1 and name no unit are refused: they are more likely in 1/nm. `two_theta_degree` or
            `theta_degree` for columns of angles, with the wavelength.
        columns: columns of a text file from 0: (q, I), (q, I, sigma) or (q, I, sigma, dq).
        relative_sigma: sigma as a fraction of the intensity for files without errors.
        wavelength_angstrom: of the beam, for columns of angles.
        q_range: lowest and highest q of curves to keep, 1/angstrom.
        join: neighbouring points of curves that become one, their mean.
        intensity_unit: of small-angle curves and reduced patterns, by default what the file says: 1/cm, 1/m
            or 1/mm (with or without 1/sr) on an absolute scale, which become 1/cm; else `arbitrary`.
        contrast_inv_cm2: scattering-length-density contrast of particle to solvent, 1/cm^2; u is then an
            electron density. Only for intensities on an absolute scale.
        dataset: path of the frames inside an HDF5 file.
        renamed: for scans, name in the file -> the name that it goes by here.
        probe: for ptychographic scans, file with the probe where the scan has none or a worse one, or
            "retrieve" to find it from the first frames.
        positions_sign: for ptychographic scans, signs of rows and columns; by default what the file says.
        positions_order: for ptychographic scans, "xy" where rows and columns of the positions are exchanged.
        orientation: for ptychographic scans, what must be done to the stored frames: `core.orientation`.
        check: for ptychographic scans, look whether frames and positions agree; where not all have a doubt.
        refine_positions: for ptychographic scans, let the frames move to where they agree best.
        on_failure: takes frames of a ptychographic scan that cannot be used; without it they raise.

    Raises:
        FrameError: no errors; a mask of another shape.
        GeometryError: no geometry for an image; q not increasing or of unknown unit; a contrast where the
            scale is not absolute.
        StorageError: the file is missing, truncated, damaged or of an unknown kind.
    """
    path = Path(path)
    if not path.is_file():
        raise StorageError(f"{path}: no such file; check the name")
    if path.stat().st_size == 0:
        raise StorageError(f"{path}: the file is empty; copy it again or wait for its writer")
    if poni is not None and geometry is not None:
        raise GeometryError(f"{path}: got both poni= and geometry=, expected one; leave one out")
    options = ReadOptions(
        q_unit,
        columns,
        relative_sigma,
        dataset,
        wavelength_angstrom,
        q_range,
        join,
        intensity_unit,
        contrast_inv_cm2,
    )
    given = _given(flat, dark, saturation)
    if renamed or probe or path.suffix.lower() in (".npz", ".cxi") or _is_scan(path):
        scan_options = ScanOptions(
            None if probe is None else Path(probe),
            positions_sign,
            renamed or {},
            load_mask(mask),
            orientation,
            positions_order,
            check=check,
            refine_positions=refine_positions,
        )
        frames = _frames_of_scan(path, scan_options, q_unit, given, on_failure)
        yield from (on_scale(frame, options, path) for frame in frames)
    elif is_orso(path, _start(path)):
        yield from (as_frame(curve, path, options) for curve in read_orso(path, options))
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        frames = _images(path, iter_images(path), _geometry(poni, geometry), load_mask(mask), given)
        yield from (on_scale(frame, options, path) for frame in frames)
    elif h5py.is_hdf5(path):
        yield from _frames_of_hdf5(path, options, _geometry(poni, geometry), load_mask(mask), given)
    else:
        yield from _text_curves(path, options)


def _frames_of_scan(
    path: Path,
    options: ScanOptions,
    q_unit: str | None,
    given: Mapping[str, NDArray],
    on_failure: Callable[[Failure], None] | None,
) -> Iterator[Frame]:
    """Named arrays: ptychographic scans, small-angle patterns or holograms, as what they hold says."""
    scan = read_ptychography(path, options)
    scan = replace(scan, values={**scan.values, **given})
    if scan.is_ptychography:
        yield from ptychography_frames(scan, options, on_failure)
    elif holds_pattern(scan.values):
        yield from pattern_frames(scan, q_unit, options.mask)
    else:
        yield from hologram_frames(scan, options.mask)


def _frames_of_hdf5(
    path: Path,
    options: ReadOptions,
    geometry: ImageGeometry | None,
    mask: NDArray[np.bool_] | None,
    given: Mapping[str, NDArray],
) -> Iterator[Frame]:
    """Curves and patterns in NXcanSAS, or else detector frames; these alone where their dataset is named."""
    curves = read_nxcansas(path, options) if options.dataset is None else []
    patterns = read_sas_patterns(path, options) if options.dataset is None else []
    yield from (as_frame(curve, path, options) for curve in curves)
    yield from (replace(p, mask=_union(mask, p.mask, path)) for p in patterns)
    if not curves and not patterns:
        stack = find_stack(path, options.dataset)
        known = geometry or stack.geometry
        frames = _images(path, iter_stack(path, stack), known, _union(mask, stack.mask, path), given)
        yield from (on_scale(frame, options, path) for frame in frames)


def load_mask(mask: str | Path | ArrayLike | None) -> NDArray[np.bool_] | None:
    """Return a mask from an array or a file, True where it is not zero.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    if mask is None:
        return None
    if not isinstance(mask, str | Path):
        return np.asarray(mask) != 0
    path = Path(mask)
    if not path.is_file():
        raise StorageError(f"{path}: no such mask file; check the name")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else fabio.open(str(path)).data
    except Exception as error:  # whatever a damaged file makes the parsers raise
        raise StorageError(
            f"{path}: the mask cannot be read ({error}), expected .npy or an image; save it again"
        ) from error
    return np.asarray(values) != 0


def _given(flat: str | Path | None, dark: str | Path | None, saturation: float | None) -> dict[str, NDArray]:
    """What is said of holograms beside their file, by the names that it has in a scan."""
    given = {"flat": flat, "dark": dark}
    values = {name: read_mean(Path(path)) for name, path in given.items() if path is not None}
    return values if saturation is None else {**values, "saturation": np.asarray(saturation)}


def _is_scan(path: Path) -> bool:
    try:
        return h5py.is_hdf5(path) and holds_scan(path)
    except (OSError, KeyError, RuntimeError):
        return False


def _start(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(4096)


def _text_curves(path: Path, options: ReadOptions) -> Iterator[Frame]:
    """Read curves from XML or columns of text, whichever the content is."""
    start = _start(path)
    if path.suffix.lower() in {".h5", ".hdf", ".hdf5", ".nxs", ".nx5", ".cxi"} or (
        b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    ):
        raise StorageError(
            f"{path}: neither HDF5 nor text, expected a curve or detector frames; the file is cut short, "
            "damaged or of an unknown kind"
        )
    is_xml = path.suffix.lower() == ".xml" or start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml")
    for curve in (read_canxml if is_xml else read_text)(path, options):
        yield as_frame(curve, path, options)


def _geometry(poni: str | Path | None, geometry: ImageGeometry | None) -> ImageGeometry | None:
    """Return the geometry that the user gave, if any."""
    return geometry if poni is None else detector_geometry_from_poni(poni)


def _images(
    path: Path,
    images: Iterator[NDArray],
    geometry: ImageGeometry | None,
    mask: NDArray[np.bool_] | None,
    given: Mapping[str, NDArray],
) -> Iterator[Frame]:
    """Make a Frame of each image."""
    if geometry is None:
        raise GeometryError(
            f"{path}: detector frames without geometry, expected wavelength, distance and beam centre, or a "
            "hologram's Fresnel number; pass poni= (a PONI file from pyFAI-calib2) or geometry="
        )
    near = isinstance(geometry, HologramGeometry)
    pixels = BadPixels(
        path.name,
        float(given["saturation"]) if "saturation" in given else None,
        pattern=not near,
        surface=isinstance(geometry, GrazingGeometry),
    )
    for number, image in enumerate(images):
        origin, bad = Origin(label=path.name, seq_num=number + 1), pixels.of(image, mask)
        if isinstance(geometry, HologramGeometry):
            flat, dark = given.get("flat"), given.get("dark")
            yield hologram_frame(image, geometry, flat=flat, dark=dark, mask=bad, origin=origin)
        else:
            yield Frame(intensity=image, geometry=geometry, mask=bad, origin=origin)


def _union(
    one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None, path: Path
) -> NDArray[np.bool_] | None:
    """Combine two masks of which either may be absent."""
    if one is None or other is None:
        return other if one is None else one
    if one.shape != other.shape:
        raise FrameError(
            f"{path}: mask {one.shape} does not match the frames {other.shape}; pass a mask of their shape"
        )
    return one | other
