"""Particles of the prior: what a film holds, what the profile adds up to, what is reported."""

import math

import pytest
import torch

from nfphasing_bluesky.modalities.grazing.particle_prior import (
    BURIED,
    CLASSES,
    PARAMETERS,
    REACH,
    SUPPORTED,
    covered,
    profile,
    sample_of,
)

COUNT = 400


def places(kind: int, **fixed: float) -> torch.Tensor:
    """Random places between the bounds, some coordinates fixed."""
    generator = torch.Generator().manual_seed(kind)
    theta = torch.rand(COUNT, len(CLASSES[kind].free), generator=generator, dtype=torch.float64)
    for name, value in fixed.items():
        theta[:, CLASSES[kind].free.index(name)] = value
    return theta


def test_particles_stand_on_the_surface():
    bodies = sample_of(places(0), 0, 12).bodies
    assert torch.allclose(bodies.middle + 0.5 * bodies.height, torch.zeros_like(bodies.middle))


def test_a_film_holds_its_particles():
    sample = sample_of(places(1), 1, 12)
    b = sample.bodies
    assert float((b.middle - 0.5 * b.height).min()) >= 0
    assert float((b.middle + 0.5 * b.height - sample.stack.thickness[:, :1]).max()) <= 1e-9


def test_radii_are_log_normal_where_there_is_room():
    bodies = sample_of(places(0, spread=1.0), 0, 40).bodies
    logarithm = (
        bodies.radius / sample_of(places(0, spread=1.0), 0, 40).values["radius_angstrom"][:, None]
    ).log()
    mean = (bodies.share * logarithm).sum(1)
    spread = ((bodies.share * logarithm.square()).sum(1) - mean.square()).sqrt()
    # of a normal distribution that is cut off at both ends
    density = math.exp(-0.5 * REACH**2) / math.sqrt(2 * math.pi)
    inside = math.erf(REACH / math.sqrt(2))
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-9)
    assert torch.allclose(spread, torch.full_like(spread, 0.7 * math.sqrt(1 - 2 * REACH * density / inside)))


@pytest.mark.parametrize("kind", [0, 1])
def test_the_profile_has_the_electrons_of_its_particles(kind):
    """Where they do not overlap; in a film they take the place of its own electrons."""
    sample = sample_of(places(kind, relative_distance=1.0, spread=0.2), kind, 12)
    z = torch.arange(-700.0, 1500.0, 0.5, dtype=torch.float64)
    material = torch.full((COUNT,), 4.0, dtype=torch.float64)
    matrix = sample.stack.density[:, sample.layer]
    added = (profile(sample, material, z) - profile(sample, matrix, z)).sum(1) * 0.5
    volume = (sample.bodies.share * math.pi * 4 / 6 * sample.bodies.radius**2 * sample.bodies.height).sum(1)
    number = 2 / math.sqrt(3) / sample.order.distance**2
    assert torch.allclose(added, number * volume * (4.0 - matrix), rtol=5e-3)


def test_nothing_covers_more_than_all():
    share = covered(
        sample_of(places(0, relative_distance=0.0, spread=1.0), 0, 12), torch.linspace(-900, 0, 90)
    )
    assert float(share.max()) == 1.0 and float(share.min()) == 0.0


@pytest.mark.parametrize(("kind", "quantities"), [(0, SUPPORTED), (1, BURIED)])
def test_the_ends_of_the_bounds_are_reported(kind, quantities):
    low = sample_of(torch.zeros(1, len(quantities)), kind, 4).values
    high = sample_of(torch.ones(1, len(quantities)), kind, 4).values
    bounds = {q.name: (q.lower, q.upper) for q in quantities}
    for name, key in {
        "spread": "spread",
        "substrate_density_e_per_cubic_angstrom": "substrate_density",
    }.items():
        assert (float(low[name]), float(high[name])) == pytest.approx(bounds[key])
    assert set(low) <= {p.name for p in PARAMETERS}
    assert float(low["radius_angstrom"]) == pytest.approx(10.0)
