"""Comparing objects: what a scan can't tell is taken away, and nothing else."""

import numpy as np
import pytest
from scipy import ndimage

from tests.scan_alignment import aligned, correlations, registered

MARGIN = 4


@pytest.fixture(scope="module")
def larger():
    """A smooth object, `MARGIN` pixels larger than what is compared."""
    rng = np.random.default_rng(0)
    phase, mu = (ndimage.gaussian_filter(rng.normal(size=(72, 64)), 2) * 3 for _ in range(2))
    return np.exp(1j * phase - 0.2 * mu)


def inner(image):
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]


def test_phase_ramp_and_scale_are_taken_away(larger):
    y, x = np.mgrid[:64, :56]
    ramp = np.exp(2j * np.pi * (1.5 * y / 64 - 0.75 * x / 56) + 2j)
    np.testing.assert_allclose(aligned(0.3 * ramp * inner(larger), inner(larger)), inner(larger), atol=1e-9)


def test_a_shift_by_parts_of_a_pixel_is_found(larger):
    shift = (1.3, -0.6)
    real, imaginary = (ndimage.shift(v, shift, order=3, mode="nearest") for v in (larger.real, larger.imag))
    found, moved = registered(1j * (real + 1j * imaginary), inner(larger), MARGIN)
    assert moved == pytest.approx((-1.3, 0.6), abs=0.05)
    assert correlations(found, inner(larger))[0] > 0.999
    assert correlations(inner(real + 1j * imaginary), inner(larger))[0] < 0.95
