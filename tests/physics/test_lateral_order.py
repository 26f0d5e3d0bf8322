"""Structure factors of paracrystals against sums over neighbours, and log-normal sizes."""

import pytest
import torch

from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal, structure_factor
from nfphasing_bluesky.physics.particles.size_distribution import log_normal

Q = torch.linspace(0.001, 0.2, 60, dtype=torch.float64)[None, None]


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


LENGTHS = one(150.0), one(30.0), one(1500.0)


def neighbours(count: int, share) -> torch.Tensor:
    """1 + 2 sum_m share(m) Re f^m."""
    distance, disorder, damping = LENGTHS
    step = torch.exp(1j * Q * distance - (Q * disorder) ** 2 / 2 - distance / damping)
    return torch.ones_like(Q) + 2 * sum(share(m) * (step**m).real for m in range(1, count))


def test_endless():
    endless = structure_factor(Paracrystal(*LENGTHS), Q)
    torch.testing.assert_close(endless, neighbours(600, lambda m: 1))


@pytest.mark.parametrize("particles", [1, 2, 13])
def test_domains(particles):
    order = Paracrystal(*LENGTHS, domain=LENGTHS[0] * (particles + 0.3))
    expected = neighbours(particles, lambda m: 1 - m / particles)
    torch.testing.assert_close(structure_factor(order, Q), expected)


def test_no_order_and_much_disorder_are_one():
    assert (structure_factor(None, Q) == 1).all()
    lost = structure_factor(Paracrystal(LENGTHS[0], one(1e5), LENGTHS[2]), Q)
    torch.testing.assert_close(lost, torch.ones_like(Q))


def test_a_chain_sees_q_along_itself():
    q_x, q_y = torch.full_like(Q, 0.03), Q
    across = Paracrystal(*LENGTHS, chain_rad=one(torch.pi / 2))
    torch.testing.assert_close(across.q_along(q_x, q_y), Q)
    torch.testing.assert_close(Paracrystal(*LENGTHS, chain_rad=one(0.0)).q_along(q_x, q_y), q_x)
    torch.testing.assert_close(Paracrystal(*LENGTHS).q_along(q_x, q_y), torch.hypot(q_x, q_y))


def test_coupling_is_for_radial_order():
    with pytest.raises(ValueError, match="radial"):
        Paracrystal(*LENGTHS, chain_rad=one(0.0), coupling=one(1.0))


def test_moments_of_log_normal_sizes():
    """<R^6> = median^6 exp(18 spread^2): the weight of sizes in small-angle scattering."""
    median, spread = one(50.0), one(0.3)
    sizes = log_normal(median, spread, 25, reach=5.0)
    assert sizes.share.sum().item() == pytest.approx(1)
    for power, within in ((1, 1e-4), (6, 1e-2)):
        moment = (sizes.share * sizes.values**power).sum()
        exact = median**power * torch.exp(0.5 * (power * spread) ** 2)
        assert moment.item() == pytest.approx(exact.item(), rel=within)
    assert log_normal(median, spread, 1).values.item() == 50.0
