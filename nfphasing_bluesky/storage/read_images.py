"""Detector frames from image files, through fabio."""

import logging
from collections.abc import Iterator
from pathlib import Path

import fabio
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import StorageError


class _Complaints(logging.Handler):
    """Keeps what fabio only logs: it pads the frames of a truncated file with zeros and carries on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.messages.append(record.getMessage())


def iter_images(path: Path) -> Iterator[NDArray]:
    """Yield the frames of a TIFF, CBF, EDF or any other image that fabio reads, (H, W), one by one.

    Raises:
        StorageError: the file is truncated, damaged, or no detector image.
    """
    complaints = _Complaints()
    logger = logging.getLogger("fabio")
    logger.addHandler(complaints)
    try:
        with fabio.open(str(path)) as image:
            for index in range(image.nframes):
                frame = np.asarray(image.get_frame(index).data)
                if complaints.messages:
                    raise OSError(complaints.messages[0])
                _check(frame, path)
                yield frame
    except StorageError:
        raise
    except Exception as error:  # fabio's readers raise whatever their parsers stumble over
        raise StorageError(
            f"{path}: fabio cannot read the image ({type(error).__name__}: {error}); the file is cut "
            "short, damaged or of another kind: copy it again"
        ) from error
    finally:
        logger.removeHandler(complaints)


def read_mean(path: Path) -> NDArray:
    """Mean (H, W) of the images of a file, .npy or any that fabio reads.

    Raises:
        StorageError: it is missing, damaged or no images.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such file; check the name")
    if path.suffix != ".npy":
        return np.mean(list(iter_images(path)), axis=0)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not an array of numpy ({error}); save it again") from error
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiu":
        raise StorageError(
            f"{path}: {values.dtype} {values.shape}, expected counts of one image (H, W) or several (N, H, W)"
        )
    return values if values.ndim == 2 else values.mean(0)


def _check(frame: NDArray, path: Path) -> None:
    """Refuse colour images and the like."""
    if frame.ndim != 2 or frame.dtype.kind not in "fiu":
        raise StorageError(
            f"{path}: image has shape {frame.shape} and dtype {frame.dtype}, expected counts (H, W); "
            "pass the detector's own file, not a picture of it"
        )
