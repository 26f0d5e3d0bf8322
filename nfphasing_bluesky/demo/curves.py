"""Measured curves that a demo can use anywhere: those that sasdata ships, and glucose isomerase.

sasdata's (BSD licence) are small-angle neutron scattering from ISIS: two proteins in solution, and one
water-in-oil microemulsion seen with two contrasts. p(r) is defined for them as it is for X-rays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nfphasing_bluesky.core import Frame, StorageError
from nfphasing_bluesky.storage.readers import read_frames

_IN_SASDATA = Path("example_data", "1d_data")
_IN_SHARED = Path("saxs1d", "glucose_isomerase_chess_g1", "glucose_isomerase.dat")


@dataclass(frozen=True)
class Source:
    """A file of sasdata and what the sample was; of text the columns of q, I and sigma."""

    label: str
    file: str
    columns: tuple[int, ...] | None = None


SOURCES = (
    Source("conalbumin", "conalbumin.txt", (0, 1, 2)),
    Source("apoferritin", "apoferritin.txt", (0, 1, 2)),
    Source("AOT microemulsion, drops", "AOT_Microemulsion-Drop_Contrast.xml"),
    Source("AOT microemulsion, shells", "AOT_Microemulsion-Shell_Contrast.xml"),
)
GLUCOSE_ISOMERASE = "glucose isomerase"


def measured_curves(shared_data: Path | None = None) -> list[Frame]:
    """Read the measured curves, each labelled with its sample's name.

    Args:
        shared_data: folder with `saxs1d/glucose_isomerase_chess_g1`; by default `../shared/data` beside the
            checkout or the current directory. Glucose isomerase comes last, where it is there.

    Raises:
        StorageError: sasdata is not installed, or a file of it is missing.
    """
    folder = _sasdata_folder()
    frames = [_labelled(folder / s.file, s.label, s.columns) for s in SOURCES]
    for candidate in _shared_folders(shared_data):
        if (candidate / _IN_SHARED).is_file():
            return [*frames, _labelled(candidate / _IN_SHARED, GLUCOSE_ISOMERASE)]
    return frames


def repeated(curves: Sequence[Frame], at_least: int) -> int:
    """Return how many exposures show every curve equally often, and at least so many in all."""
    return len(curves) * -(-at_least // len(curves))


def _sasdata_folder() -> Path:
    found = find_spec("sasdata")
    places = [] if found is None else [Path(p) / _IN_SASDATA for p in found.submodule_search_locations or ()]
    for place in places:
        if place.is_dir():
            return place
    lack = "is not installed" if found is None else "has no example data"
    raise StorageError(
        f"no measured curves: the package sasdata {lack}, expected 0.11 or later; pip install sasdata"
    )


def _shared_folders(given: Path | None) -> list[Path]:
    if given is not None:
        return [given]
    checkout = Path(__file__).resolve().parents[2]
    return [base.parent / "shared" / "data" for base in (Path.cwd(), checkout)]


def _labelled(path: Path, label: str, columns: tuple[int, ...] | None = None) -> Frame:
    (frame,) = read_frames(path, columns=columns)
    return frame.with_origin(label=label)
