"""Holograms from documents: their geometry, and counts over the empty beam."""

import numpy as np
import pytest

from nfphasing_bluesky.core import HologramGeometry, Origin, StreamSettings
from nfphasing_bluesky.documents.holograms import hologram_frame
from nfphasing_bluesky.documents.router import FrameRouter

COUNTS = np.random.default_rng(0).poisson(400.0, (12, 10)).astype(np.uint32)
CONE = {
    "wavelength_m": 9.794912e-11,
    "distance_m": 1.12,
    "pixel_size_m": 55e-6,
    "focus_to_sample_m": 3.65e-3,
    "photons": 400,
}


def route(heard, raw_run, key_of, geometry, counts=COUNTS, **arrays):
    keys = {"eiger": key_of((12, 10)), **{name: key_of((12, 10)) for name in arrays}}
    run = raw_run(keys, nfphasing={"geometry": geometry})
    run.event(eiger=counts, **arrays)
    run.stop()
    router = FrameRouter(heard, StreamSettings(data_key="eiger"))
    for name, doc in run.documents:
        router(name, doc)
    return heard


def test_a_cone_beam_is_scaled_as_the_data_set_says(heard, raw_run, key_of):
    (frame,) = route(heard, raw_run, key_of, CONE).frames
    assert isinstance(frame.geometry, HologramGeometry)
    assert frame.geometry.fresnel_number == pytest.approx(0.0896, rel=1e-3)
    assert frame.geometry.pixel_size_m == pytest.approx(178.66e-9, rel=1e-4)
    np.testing.assert_allclose(frame.intensity, COUNTS / 400)
    np.testing.assert_allclose(frame.sigma, np.sqrt(COUNTS + 1.0) / 400)


def test_a_number_that_agrees_with_the_lengths_is_taken(heard, raw_run, key_of):
    (frame,) = route(heard, raw_run, key_of, CONE | {"fresnel_number": 0.09}).frames
    assert frame.geometry.fresnel_number == 0.09


def test_an_empty_image_comes_before_the_mean_of_photons(heard, raw_run, key_of):
    flat = np.full((12, 10), 200.0)
    flat[3, 4] = 0.0
    geometry = {"fresnel_number": 0.01, "beta_over_delta": 0.005, "photons": 400}
    dark = np.full((12, 10), 20.0)
    dark[3, 4] = 0.0
    (frame,) = route(heard, raw_run, key_of, geometry, eiger_flat=flat + dark, eiger_dark=dark).frames
    assert frame.geometry.beta_over_delta == 0.005
    assert not frame.usable[3, 4]
    np.testing.assert_allclose(frame.intensity[frame.usable], (COUNTS[frame.usable] - 20.0) / 200)


def test_gaps_and_saturated_pixels_are_masked(heard, raw_run, key_of):
    signed = COUNTS.astype(np.int32)
    signed[5] = -1
    gap = hologram_frame(signed, HologramGeometry(0.01, photons=400), origin=Origin())
    assert not gap.usable[5].any() and gap.usable.sum() == signed.size - 10
    counts = COUNTS.copy()
    counts[2, 3] = np.iinfo(np.uint32).max
    counts[7] = 0
    geometry = {"fresnel_number": 0.01, "photons": 400, "saturation": 430}
    (frame,) = route(heard, raw_run, key_of, geometry, counts=counts).frames
    expected = (COUNTS < 430) & (np.arange(12) != 7)[:, None]
    expected[2, 3] = False
    np.testing.assert_array_equal(frame.usable, expected)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        ({"photons": 400, "wavelength_m": 1e-10}, "neither fresnel_number nor all of"),
        ({"fresnel_number": "near"}, "a number for each"),
        ({"fresnel_number": 0.01, "poni_m": 0.1}, "poni_m"),
        ({"fresnel_number": -0.01}, "positive"),
        ({"fresnel_number": 0.01, "saturation": -1}, "saturation=-1"),
        (CONE | {"fresnel_number": 0.0915}, "fresnel_number=0.0915, but wavelength"),
    ],
)
def test_a_geometry_that_cannot_be_used_fails_the_frame_with_its_reason(
    heard, raw_run, key_of, geometry, words
):
    (failure,) = route(heard, raw_run, key_of, geometry).failures
    assert words in failure.reason


def test_a_flat_of_another_shape_fails_the_frame(heard, raw_run, key_of):
    said = {"fresnel_number": 0.01}
    run = raw_run({"eiger": key_of((12, 10)), "eiger_flat": key_of((6, 5))}, nfphasing={"geometry": said})
    run.event(eiger=COUNTS, eiger_flat=np.ones((6, 5)))
    run.stop()
    router = FrameRouter(heard, StreamSettings(data_key="eiger"))
    for name, doc in run.documents:
        router(name, doc)
    (failure,) = heard.failures
    assert "flat (6, 5)" in failure.reason
