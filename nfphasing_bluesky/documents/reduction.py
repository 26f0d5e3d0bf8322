"""Two-dimensional frames as models of one-dimensional densities take them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import Frame, GrazingGeometry


def reduced(frame: Frame, mask: NDArray[np.bool_] | None = None) -> Frame:
    """Two cuts of a frame in grazing incidence, the average over rings of any other.

    Cuts of a frame whose reflected beam contradicts the incidence angle have a doubt.

    Args:
        frame: (H, W) counts with the geometry of a detector.
        mask: (H, W), True where a pixel must not be used.

    Raises:
        FrameError, GeometryError: as of `cuts_of` and `integrate`.
    """
    if isinstance(frame.geometry, GrazingGeometry):
        from nfphasing_bluesky.physics.grazing.grazing_frames import cuts_of  # torch: slow, as pyFAI below
        from nfphasing_bluesky.physics.grazing.reflected_beam import incidence_doubt

        doubts = (frame.doubt, incidence_doubt(frame if mask is None else frame.masked(mask)))
        return replace(cuts_of(frame, mask), doubt="; ".join(filter(None, doubts)))
    from nfphasing_bluesky.documents.integration import integrate

    return integrate(frame, mask=mask)
