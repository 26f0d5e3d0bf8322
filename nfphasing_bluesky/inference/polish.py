"""Polish: flow draws of one frame moved towards the exact posterior by sequential Monte Carlo.

How close they come depends on the number of parameters and of steps: docs/explanation.md has figures.

The draws start under q and pass through q^(1-b) p^b, b from 0 to 1, each b as far as the effective sample
size stays above half; after each resampling every draw moves by Metropolis steps whose proposals are
differences between other draws of the same class (ter Braak, Statistics and Computing 16, 239, 2006), so
no step size has to be tuned. Of draws in a box of many coordinates some move at a time, and what steps over
a wall is reflected there (Vrugt et al., Int. J. Nonlinear Sci. Numer. Simul. 10, 273, 2009): where the frame
says nothing of a coordinate, the posterior goes as far as its walls. Del Moral,
Doucet and Jasra, J. R. Stat. Soc. B 68, 411 (2006).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.inference.importance import ess_fraction, systematic_resample
from nfphasing_bluesky.modalities import Draws

TARGET_ESS = 0.5
MOVED = (0.2, 0.5, 1.0)
"""Shares of the coordinates of a box that move at a time."""
MAX_STAGES = 60


@dataclass(frozen=True)
class Polished:
    """Draws under the exact posterior and the acceptance rate of the moves at full strength."""

    draws: Draws
    acceptance: float


def polish(
    draws: Draws,
    log_q: Callable[[Draws], Tensor],
    log_target: Callable[[Draws], Tensor],
    steps: int,
    generator: torch.Generator,
    *,
    unit_box: bool = False,
) -> Polished:
    """Move S draws of one frame to the posterior.

    Args:
        draws: of the flow.
        log_q: joint log density of the flow.
        log_target: log p(I|u) + log p(u), -inf outside the prior.
        steps: Metropolis steps at full strength; a third of that at each tempering stage before.
        generator: of every random number.
        unit_box: whether theta lies between 0 and 1.
    """
    values_q, values_p = log_q(draws).double(), log_target(draws).double()
    power, stage, rate = 0.0, 0, 0.0
    while power < 1.0 and stage < MAX_STAGES:
        ratio = values_p - values_q
        ratio = torch.where(torch.isfinite(ratio), ratio, -torch.inf)
        if not torch.isfinite(ratio).any():
            break
        step = _next_power(ratio, power) if stage < MAX_STAGES - 1 else 1.0
        u = torch.rand(1, generator=generator)
        chosen = systematic_resample(((step - power) * ratio)[None], u)[0]
        draws, values_q, values_p = draws.at(chosen), values_q[chosen], values_p[chosen]
        power, stage = step, stage + 1
        moves = steps if power == 1.0 else max(1, steps // 3)
        for _ in range(moves):
            draws, values_q, values_p, rate = _move(
                draws, values_q, values_p, power, log_q, log_target, generator, unit_box
            )
    return Polished(draws, rate)


def _next_power(ratio: Tensor, power: float) -> float:
    """Largest power that keeps the effective sample size above the target, by bisection."""

    def enough(b: float) -> bool:
        return float(ess_fraction(((b - power) * ratio)[None])[0]) >= TARGET_ESS

    if enough(1.0):
        return 1.0
    low, high = power, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if enough(middle) else (low, middle)
    return max(low, power + 1e-6)


def _move(draws, values_q, values_p, power, log_q, log_target, generator, unit_box):
    """One differential-evolution Metropolis step of each half of the draws, given the other half."""
    s = len(draws)
    order = torch.randperm(s, generator=generator)
    accepted = 0
    theta = draws.theta.clone()
    values_q, values_p = values_q.clone(), values_p.clone()
    for half, other in ((order[: s // 2], order[s // 2 :]), (order[s // 2 :], order[: s // 2])):
        current = Draws(draws.label, theta, draws.frame)
        proposal = _propose(current.at(half), current.at(other), generator, unit_box)
        new_p = log_target(proposal).double()
        # at full strength the flow no longer counts
        new_q = log_q(proposal).double() if power < 1 else values_q[half]
        old = (1 - power) * values_q[half] + power * values_p[half]
        new = (1 - power) * new_q + power * new_p
        new = torch.where(torch.isfinite(new), new, -torch.inf)
        u = torch.rand(len(half), generator=generator, dtype=torch.float64)
        take = u.log() < new - old
        index = half[take]
        theta[index] = proposal.theta[take]
        values_q[index], values_p[index] = new_q[take], new_p[take]
        accepted += int(take.sum())
    return Draws(draws.label, theta, draws.frame), values_q, values_p, accepted / s


def _propose(current: Draws, pool: Draws, generator: torch.Generator, unit_box: bool) -> Draws:
    """Theta + gamma (a - b) + small noise, a and b draws of the pool of the same class.

    In a box of some coordinates, and reflected at the walls.
    """
    theta = current.theta.clone()
    for k in current.label.unique():
        members = (pool.label == k).nonzero()[:, 0]
        mine = (current.label == k).nonzero()[:, 0]
        if len(members) < 3:
            continue
        pick = torch.randint(len(members), (2, len(mine)), generator=generator)
        a, b = pool.theta[members[pick[0]]], pool.theta[members[pick[1]]]
        spread = pool.theta[members].std(0)
        moved = (spread > 0).expand(len(mine), -1)
        if unit_box:
            moved = _some(moved, generator)
        gamma = 2.38 / (2 * moved.sum(1, keepdim=True).clamp_min(1)).sqrt()
        jump = torch.rand(len(mine), 1, generator=generator) < 0.1
        gamma = torch.where(
            jump, 1.0, gamma * torch.exp(0.5 * torch.randn(len(mine), 1, generator=generator))
        )
        noise = 1e-3 * spread * torch.randn(theta[mine].shape, generator=generator)
        step = gamma * (a - b) + noise
        theta[mine] = (
            _reflected(theta[mine] + torch.where(moved, step, 0.0)) if unit_box else theta[mine] + step
        )
    return Draws(current.label, theta, current.frame)


def _some(free: Tensor, generator: torch.Generator) -> Tensor:
    """(N, D) some of the coordinates that are free, at least one of each draw."""
    share = torch.tensor(MOVED)[torch.randint(len(MOVED), (len(free), 1), generator=generator)]
    u = torch.where(free, torch.rand(free.shape, generator=generator), 2.0)
    return free & (u <= torch.maximum(share, u.amin(1, keepdim=True)))


def _reflected(theta: Tensor) -> Tensor:
    """Places folded back to 0 to 1."""
    return 1 - (1 - theta.abs().remainder(2.0)).abs()
