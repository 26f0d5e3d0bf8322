"""The detector's mask from a file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import GeometryError


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask, True where a pixel must not be used, from .npy or any image that fabio reads.

    Raises:
        GeometryError: the file is missing, unreadable or not two-dimensional.
    """
    try:
        if path.suffix == ".npy":
            mask = np.load(path, allow_pickle=False)
        else:
            # a sixth of the time that a worker takes to start, and few have such a mask
            import fabio

            with fabio.open(path) as image:
                mask = np.asarray(image.data)
    except Exception as error:  # fabio's codecs raise their own errors on bad files
        raise GeometryError(f"mask {path} cannot be read: {error}; expected .npy or an image file") from error
    if mask.ndim != 2:
        raise GeometryError(f"mask {path} has shape {mask.shape}, expected (H, W)")
    return mask != 0
