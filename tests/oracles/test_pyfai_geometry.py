"""q of a detector's pixels against pyFAI, tilts included."""

import numpy as np
import pytest
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from nfphasing_bluesky.core import DetectorGeometry, plane_of

SHAPE = (60, 80)


@pytest.mark.parametrize(
    "rotations", [(0, 0, 0), (0.05, 0, 0), (0, 0.07, 0), (0, 0, 0.3), (0.05, -0.03, 0.2)]
)
def test_q_and_azimuth_of_every_pixel(rotations):
    geometry = DetectorGeometry(1e-10, 1.5, (172e-6, 150e-6), (0.0051, 0.0062), rotations)
    keys = dict(zip(("rot1", "rot2", "rot3"), rotations, strict=True))
    oracle = AzimuthalIntegrator(
        dist=1.5, poni1=0.0051, poni2=0.0062, pixel1=172e-6, pixel2=150e-6, wavelength=1e-10, **keys
    )
    qx, qy = plane_of(geometry, SHAPE).maps()
    q = oracle.array_from_unit(SHAPE, unit="q_A^-1")
    np.testing.assert_allclose(np.hypot(qx, qy), q, rtol=1e-9)
    chi = oracle.center_array(SHAPE, unit="chi_rad")
    off = np.angle(np.exp(1j * (np.arctan2(qy, qx) - chi)))
    assert np.abs(off[q > 0.002]).max() < 1e-5
