"""The eight ways in which an image or a set of places can lie: turned by quarters, mirrored or not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core.errors import GeometryError


@dataclass(frozen=True)
class Orientation:
    """What is done to an image: rows and columns swapped first, then rows and columns reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def name(self) -> str:
        """As `ORIENTATIONS` has it."""
        return next(name for name, known in ORIENTATIONS.items() if known == self)

    @property
    def signs(self) -> tuple[int, int]:
        """-1 where rows, columns are reversed, else 1."""
        return (-1 if self.flip_rows else 1, -1 if self.flip_columns else 1)

    def then(self, other: "Orientation") -> "Orientation":
        """Return what comes of this and then another one."""
        rows, columns = self.flip_rows, self.flip_columns
        if other.transpose:
            rows, columns = columns, rows
        return Orientation(
            self.transpose != other.transpose, rows != other.flip_rows, columns != other.flip_columns
        )

    def image(self, images: NDArray, *, centre: int | None = None) -> NDArray:
        """Turn images (..., H, W).

        Args:
            images: the last two axes are turned.
            centre: 0 or N // 2, the row and column that stays where it is, as the direct beam of a far field
                does; None turns about the middle of the array, between the pixels of an even side.
        """
        if self.transpose:
            images = np.swapaxes(images, -2, -1)
        for flip, axis in ((self.flip_rows, -2), (self.flip_columns, -1)):
            if flip:
                images = np.flip(images, axis)
                if centre is not None and (centre == 0 or images.shape[axis] % 2 == 0):
                    images = np.roll(images, 1, axis)
        return images

    def places(self, places: NDArray) -> NDArray:
        """Turn places (..., 2), row and column, about the origin."""
        swapped = places[..., ::-1] if self.transpose else places
        return swapped * np.array(self.signs)


ORIENTATIONS = {
    "as-is": Orientation(),
    "flip-rows": Orientation(False, True, False),
    "flip-columns": Orientation(False, False, True),
    "rotate-180": Orientation(False, True, True),
    "transpose": Orientation(True, False, False),
    "rotate-90": Orientation(True, True, False),
    "rotate-270": Orientation(True, False, True),
    "antitranspose": Orientation(True, True, True),
}
"""Name -> orientation; the rotations are anticlockwise, rows counted downwards, as numpy's rot90 is."""


def read_orientation(name: str, where: str) -> Orientation:
    """Return the orientation of a name. Raises GeometryError for one that there is not."""
    if name not in ORIENTATIONS:
        raise GeometryError(
            f"{where}: orientation={name!r}, expected one of {', '.join(ORIENTATIONS)}: what must be done to "
            "the stored frames"
        )
    return ORIENTATIONS[name]
