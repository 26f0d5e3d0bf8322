"""An incidence angle that is off is told by the reflected beam, and by nothing else that is bright."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nfphasing_bluesky.core import Frame, GrazingGeometry, Origin
from nfphasing_bluesky.documents.reduction import reduced
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.physics.grazing.grazing_frames import pixel_maps
from nfphasing_bluesky.physics.grazing.reflected_beam import incidence_doubt

TRUE_DEGREE, YONEDA_DEGREE = 0.46, 0.18
SHAPE = (300, 200)
GEOMETRY = GrazingGeometry(
    1.34e-10, 1.0, (0.172e-3, 0.172e-3), (SHAPE[0] - 60.0, 100.0), math.radians(TRUE_DEGREE)
)


def surface(specular: float = 1e5) -> Frame:
    """Particles with Yoneda's line, broad in the plane of incidence, and the reflected beam."""
    maps = pixel_maps(GEOMETRY, SHAPE)
    exit_degree = np.degrees(maps.exit_rad)
    line = np.exp(-(((exit_degree - YONEDA_DEGREE) / 0.02) ** 2)) / (1 + (maps.q_y / 0.02) ** 2)
    ridge = 20 * np.exp(-((maps.q_y / 0.001) ** 2)) * np.exp(-exit_degree)
    beam = np.exp(-(((exit_degree - TRUE_DEGREE) / 0.012) ** 2) - (maps.q_y / 0.001) ** 2)
    particles = 30 / (1 + (maps.q_y / 0.03) ** 2)
    expected = (maps.exit_rad > 0) * (particles + 600 * line + ridge + specular * beam)
    counts = np.random.default_rng(0).poisson(expected + 0.1)
    return Frame(counts[::-1].astype(float), GEOMETRY, origin=Origin("surface"))


def given(frame: Frame, degree: float) -> Frame:
    return replace(frame, geometry=replace(frame.geometry, incidence_rad=math.radians(degree)))


@pytest.mark.parametrize("off", [-0.05, 0.05])
def test_an_angle_that_is_off_is_named_with_the_one_that_would_do(off):
    words = incidence_doubt(given(surface(), TRUE_DEGREE + off))
    assert (
        f"an incidence angle of {TRUE_DEGREE:.2f}" in words and f"{TRUE_DEGREE + off:.3f} are given" in words
    )
    upright = replace(surface(), intensity=surface().intensity[::-1].copy())
    turned = replace(GEOMETRY, rows_up=True, beam_px=(60.0, 100.0))
    assert incidence_doubt(given(replace(upright, geometry=turned), TRUE_DEGREE + off)) == words


def test_what_fits_or_is_not_seen_says_nothing():
    assert incidence_doubt(surface()) == ""
    assert incidence_doubt(given(surface(), TRUE_DEGREE + 0.015)) == ""
    # without a reflected beam Yoneda's line is the brightest
    assert incidence_doubt(given(surface(specular=0.0), TRUE_DEGREE - 0.05)) == ""
    stop = np.zeros(SHAPE, bool)
    stop[:, 90:110] = True
    assert incidence_doubt(replace(given(surface(), TRUE_DEGREE - 0.05), mask=stop)) == ""


def test_frames_and_cuts_of_models_have_the_doubt():
    wrong = given(surface(), TRUE_DEGREE - 0.05)
    assert "reflected beam" in reduced(wrong).doubt and reduced(surface()).doubt == ""
    assert "; the reflected beam" in reduced(replace(wrong, doubt="not homed")).doubt
    for name in ("gisaxs2d", "gisaxs2d-films"):
        assert "reflected beam" in modality(name).doubt(wrong, None, 0.0)
