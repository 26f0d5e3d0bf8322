"""Bounds of layer stacks: what they do to the prior, and what is refused."""

import math

import pytest
import torch

from nfphasing_bluesky.core import FrameError
from nfphasing_bluesky.modalities.layers.layer_prior import (
    CLASSES,
    MOST_LAYERS,
    NAMES,
    QUANTITIES,
    bounds_of,
    columns,
    possible_roughness,
    random_bounds,
    sample_of,
    widest,
)


def uniform(n: int, layers: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, len(columns(layers)), generator=torch.Generator().manual_seed(seed))


def row(values: torch.Tensor, n: int) -> torch.Tensor:
    return values.expand(n, -1)


def test_without_bounds_the_widest_hold():
    lower, upper, layers = bounds_of({}, "curve")
    assert torch.equal(lower, widest()[0])
    assert torch.equal(upper, widest()[1])
    assert layers.all()
    assert len(layers) == MOST_LAYERS + 1


def test_every_sample_lies_within_its_bounds():
    known = {
        "thickness_2_angstrom": (90.0, 110.0),
        "density_1_e_per_cubic_angstrom": (1.2, 1.5),
        "substrate_density_e_per_cubic_angstrom": (0.70, 0.72),
        "q_offset_inv_angstrom": (-1e-4, 2e-4),
    }
    lower, upper, _ = bounds_of(known, "curve")
    sample = sample_of(uniform(2000, 3), 3, row(lower, 2000), row(upper, 2000))
    for place, column in enumerate(columns(3)):
        quantity = QUANTITIES[column]
        low, high = known.get(quantity.name, (quantity.lower, quantity.upper))
        values = sample.values[:, place]
        assert float(values.max()) <= high * (1 + 1e-5)
        # thin layers can't be as rough as the prior begins
        if "roughness" not in quantity.name:
            assert float(values.min()) >= low - 1e-5 * abs(low)
            assert float(values.max() - values.min()) > 0.9 * (high - low)


def test_a_stack_is_made_of_its_reported_values():
    lower, upper = (row(edge, 50) for edge in widest())
    sample = sample_of(uniform(50, 2), 2, lower, upper)
    value = dict(zip((NAMES[c] for c in columns(2)), sample.values.T, strict=True))
    stack = sample.stack
    assert torch.equal(stack.density[:, 0], torch.zeros(50))
    torch.testing.assert_close(stack.density[:, 1], value["density_1_e_per_cubic_angstrom"])
    torch.testing.assert_close(stack.density[:, 3], value["substrate_density_e_per_cubic_angstrom"])
    torch.testing.assert_close(stack.thickness[:, 1], value["thickness_2_angstrom"])
    torch.testing.assert_close(stack.roughness[:, 1], value["roughness_2_angstrom"])
    torch.testing.assert_close(stack.roughness[:, 2], value["substrate_roughness_angstrom"])
    absorption = value["absorption_2_cubic_angstrom_per_e"] * stack.density[:, 2].square()
    torch.testing.assert_close(stack.absorption[:, 2], absorption)
    absorption = value["substrate_absorption_cubic_angstrom_per_e"] * stack.density[:, 3].square()
    torch.testing.assert_close(stack.absorption[:, 3], absorption)
    torch.testing.assert_close(sample.footprint_q, value["footprint_q_inv_angstrom"])


def test_a_bare_substrate_has_no_layers():
    lower, upper = (row(edge, 5) for edge in widest())
    sample = sample_of(uniform(5, 0), 0, lower, upper)
    assert sample.stack.layers == 0
    assert sample.stack.roughness.shape == (5, 1)


def test_thickness_is_uniform_in_the_logarithm():
    lower, upper = (row(edge, 4000) for edge in widest())
    thickness = sample_of(uniform(4000, 1), 1, lower, upper).stack.thickness[:, 0]
    assert float(thickness.log().mean()) == pytest.approx(0.5 * (math.log(10) + math.log(400)), abs=0.06)


def test_roughness_stays_small_beside_the_thickness():
    rough = torch.tensor([[3.0, 20.0, 20.0]])
    found = possible_roughness(rough, torch.tensor([[200.0, 20.0]]))
    assert float(found[0, 0]) == pytest.approx(3.0, rel=1e-4)
    assert (found[0, 1:] < 9.0).all()
    assert (found[0, 1:] > 8.5).all()


def test_random_bounds_hold_the_number_of_layers_and_both_extremes():
    label = torch.arange(3000) % len(CLASSES)
    bounds = random_bounds(label, torch.Generator().manual_seed(0))
    low, high = widest()
    assert (bounds.lower >= low - 1e-5).all()
    assert (bounds.upper <= high + 1e-5).all()
    share = (bounds.upper - bounds.lower) / (high - low)
    assert 0.25 < float((share > 0.999).all(1).double().mean()) < 0.35
    assert 0.1 < float((share < 0.1).double().mean()) < 0.4
    assert bounds.layers[torch.arange(3000), label].all()
    assert 0.3 < float((bounds.layers.sum(1) == 1).double().mean()) < 0.5


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"thickness_1_angstrom": (110, 90)}, "the lower one first"),
        ({"thickness_1_angstrom": (90, 9000)}, "within 10 to 400"),
        ({"layers": (3, 9)}, "within 0 to 5"),
        ({"layers": (1.2, 1.8)}, "1.2 to 1.8, expected a whole number among them"),
        ({"thickness_6_angstrom": (20, 30)}, "layer 6, expected at most 5 layers"),
        ({"density_12_e_per_cubic_angstrom": (1, 2)}, "layer 12, expected at most 5 layers"),
        ({"layers": (0, 1), "thickness_3_angstrom": (20, 30)}, "layer 3, but of layers as 0 to 1"),
        ({"thickness": (90, 110)}, "expected a parameter"),
        ({"thickness_1_angstrom": (float("nan"), 90)}, "the lower one first"),
    ],
)
def test_bounds_that_make_no_sense_are_named(known, message):
    with pytest.raises(FrameError, match=message):
        bounds_of(known, "curve.dat")


def test_a_known_value_is_a_very_narrow_interval():
    lower, upper, layers = bounds_of({"thickness_1_angstrom": (100, 100), "layers": (2, 2)}, "curve")
    assert 0 < float(upper[0] - lower[0]) < 1e-3
    assert layers.tolist() == [False, False, True, False, False, False]
