"""Profiles against closed forms, and against the reflectivity of their slices."""

import math

import pytest
import torch

from nfphasing_bluesky.physics.layers.depth_profile import (
    absorption_profile,
    bounded_profile,
    density_profile,
    interface_depths,
    sliced,
)
from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity

Z = torch.linspace(-60, 260, 641, dtype=torch.float64)


def film(roughness: tuple[float, float, float] = (4.0, 3.0, 2.0)) -> Stack:
    values = ([0.0, 1.2, 0.4, 0.7], [0.0, 0.03, 0.0, 0.01], [70.0, 110.0], roughness)
    return Stack(*(torch.tensor([v], dtype=torch.float64) for v in values))


def test_depths_count_from_the_surface():
    assert interface_depths(film()).tolist() == [[0.0, 70.0, 180.0]]


def test_a_surface_is_an_error_function():
    one = Stack(*(torch.tensor([v], dtype=torch.float64) for v in ([0.0, 0.334], [0.0, 0.0], [], [3.1])))
    expected = [0.167 * (1 + math.erf(z / (3.1 * math.sqrt(2)))) for z in Z.tolist()]
    torch.testing.assert_close(density_profile(one, Z)[0], torch.tensor(expected, dtype=torch.float64))


def test_materials_show_between_their_interfaces():
    place = torch.tensor([-40.0, 35.0, 125.0, 240.0], dtype=torch.float64)
    expected = torch.tensor([[0.0, 1.2, 0.4, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(density_profile(film(), place), expected, atol=1e-9, rtol=0)
    expected = torch.tensor([[0.0, 0.03, 0.0, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(absorption_profile(film(), place), expected, atol=1e-9, rtol=0)


def test_electrons_of_an_area_are_those_of_the_layers():
    step = float(Z[1] - Z[0])
    found = float((density_profile(film(), Z)[0] * step).sum())
    assert found == pytest.approx(1.2 * 70 + 0.4 * 110 + 0.7 * (260 - 180), abs=0.7 * step)


def test_without_overlap_the_bounded_profile_is_the_plain_one():
    torch.testing.assert_close(bounded_profile(film(), Z), density_profile(film(), Z), atol=1e-9, rtol=0)


def test_overlapping_roughness_leaves_the_materials_only_in_the_plain_sum():
    rough = film((4.0, 40.0, 2.0))
    plain, bounded = density_profile(rough, Z), bounded_profile(rough, Z)
    assert float(plain.min()) < -0.01
    assert float(bounded.min()) >= 0.0
    assert float(bounded.max()) <= 1.2


def test_the_slices_of_a_profile_reflect_as_nevot_and_croce_say():
    q = torch.linspace(0.01, 0.25, 150, dtype=torch.float64)[None]
    smooth = film((2.0, 1.5, 1.0))
    expected, found = reflectivity(smooth, q), reflectivity(sliced(smooth, 1500), q)
    assert float((found / expected).log().abs().max()) < 0.01


def test_slices_say_where_nevot_and_croce_do_not_hold():
    q = torch.linspace(0.05, 0.2, 50, dtype=torch.float64)[None]
    rough = film((4.0, 50.0, 2.0))
    ratio = reflectivity(sliced(rough, 800), q) / reflectivity(rough, q)
    assert float(ratio.log().abs().max()) > 0.1
