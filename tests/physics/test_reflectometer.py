"""Footprint, resolution, offsets and attenuators against closed forms."""

import math

import pytest
import torch

from nfphasing_bluesky.physics.layers.reflectometer import (
    BeamShape,
    Reflectometer,
    attenuated,
    footprint_q,
    illuminated_share,
    measured_reflectivity,
    offset_of_angle,
    q_of_angle,
    smeared,
)
from nfphasing_bluesky.physics.reflectivity import Stack, reflectivity

Q = torch.linspace(0.01, 0.5, 120, dtype=torch.float64)[None]


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def water() -> Stack:
    zero = torch.zeros(1, 1, dtype=torch.float64)
    return Stack(numbers(0.0, 0.334)[None], numbers(0.0, 7e-4)[None], zero[:, :0], zero + 3.0)


@pytest.mark.parametrize(("reach", "nodes"), [(None, 9), (None, 17), (6.0, 41)])
def test_a_fringe_is_smeared_to_its_gaussian_average(reach, nodes):
    thickness, dq = 90.0, torch.full_like(Q, 0.01)
    found = smeared(lambda q: torch.cos(thickness * q), Q, dq, nodes, reach)
    expected = torch.cos(thickness * Q) * math.exp(-0.5 * (thickness * 0.01) ** 2)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_a_parabola_is_smeared_exactly():
    dq = 0.05 * Q
    torch.testing.assert_close(smeared(lambda q: q**2, Q, dq, 3), Q**2 + dq**2)


def test_a_long_footprint_cuts_the_intensity_in_proportion():
    spill = footprint_q(0.25, 6.0, 1.5406)
    angle = math.asin(0.25 / 6.0)
    assert spill == pytest.approx(float(q_of_angle(numbers(angle), 1.5406)))
    share = illuminated_share(numbers(0.25 * spill, spill, 2 * spill)[None], numbers(spill))
    torch.testing.assert_close(share, numbers(0.25, 1.0, 1.0)[None])


def test_a_gaussian_beam_spills_as_the_error_function():
    # a sample that reaches one standard deviation to either side catches 68.27 %
    share = illuminated_share(numbers(0.2)[None], numbers(0.1), BeamShape.GAUSSIAN)
    assert float(share) == pytest.approx(0.682689, abs=1e-6)


def test_an_angle_offset_moves_q():
    offset = math.radians(0.01)
    moved = offset_of_angle(Q, numbers(offset), 1.2398)
    angle = torch.asin(Q * 1.2398 / (4 * math.pi))
    torch.testing.assert_close(moved, 4 * math.pi / 1.2398 * torch.cos(angle) * offset, rtol=1e-2, atol=0)


def test_attenuator_steps_stay_from_their_edge_on():
    found = attenuated(numbers(0.05, 0.1, 0.3)[None], numbers(0.1, 0.2)[None], numbers(0.02, -0.05)[None])
    torch.testing.assert_close(found, numbers(0.0, 0.02, -0.03).exp()[None])


def test_a_measured_curve_is_scale_footprint_and_background_of_the_reflectivity():
    beam = Reflectometer(numbers(1.2), numbers(1e-7), numbers(5e-4), numbers(0.04))
    found = measured_reflectivity(water(), beam, Q)
    expected = 1.2 * reflectivity(water(), Q + 5e-4) * (Q / 0.04).clamp_max(1.0) + 1e-7
    torch.testing.assert_close(found, expected)


def test_resolution_is_part_of_the_measurement_and_differentiable():
    offset = numbers(5e-4).requires_grad_()
    beam = Reflectometer(numbers(1.0), numbers(0.0), offset, numbers(0.0))
    sharp = measured_reflectivity(water(), beam, Q)
    torch.testing.assert_close(measured_reflectivity(water(), beam, Q, 1e-9 * Q), sharp)
    smooth = measured_reflectivity(water(), beam, Q, 0.05 * Q)
    assert float((smooth / sharp - 1).detach().abs().max()) > 0.05
    smooth.log().sum().backward()
    assert torch.isfinite(offset.grad).all()
    assert float(offset.grad) < 0
