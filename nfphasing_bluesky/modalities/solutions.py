"""All the solutions of one coherent pattern that many fits find, as anchors with weights.

Fits start at draws of the prior; a fit is Levenberg's and Marquardt's, in the coordinates of `half_pattern`,
in which the prior is the standard normal, so it cannot leave the bounds. The inversion twin of every solution
is another one, as probable; the neighbours one pixel away along each axis start fits too, as long as that
finds more. What fits end in more than once is one solution. Starts are added until every one of the solutions
that weigh something was found several times.

Around each solution stands a Gaussian (Laplace's method), or a row of them where the scale is not known
(`scale_path`). In few dimensions the Gaussians and their weights follow the posterior by ensembles of walkers
instead, and bridges weigh them (`population`); an object and its twin are as probable.

Letters: D pixels of the object, E further coordinates (scale and background, or none), M fits, K solutions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.half_pattern import Pattern
from nfphasing_bluesky.modalities.population import Mixture, adapted
from nfphasing_bluesky.modalities.scale_path import Path, along_scale

NEGLIGIBLE = 7.0
"""Nats of evidence below the best from which on a solution is left out."""
SAME = 0.5
"""Two fits are one solution if they lie closer than that, in standard deviations per pixel's square root."""
OFTEN = 4
ROUNDS, MORE_STARTS = 4, 4
LOG_WEIGHT, ANSWER = 0, 3
"""Columns of the features that say how much a component weighs, and which solution it belongs to."""
FLAT, HEAVY = 20.0, 4.0
DAMPING = (1e-1, 1e-9, 1e9)
LONGEST = 2.0
FOLLOWED = 12
"""Steps of a fit that begins next to where it ends, at most."""
CONVERGED = 1e-6
VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class Search:
    """How hard to look.

    Args:
        starts: draws of the prior that fits start at, at first; up to four times as many where it needs that.
        steps: of each fit at most.
        slots: solutions kept.
        adapt: dimensions up to which the Gaussians are moved to the posterior.
    """

    starts: int
    steps: int
    slots: int
    adapt: int = 16


def solutions(pattern: Pattern, search: Search, generator: torch.Generator) -> Anchor:
    """(C, ...) anchors of one frame, the heaviest first: one for each solution, or several along its scale.

    Features are log weight, log volume, size of z, and the number of the solution.
    """
    count = pattern.pixels
    device = pattern.cosine.device
    known = _Known(pattern, torch.empty(0, pattern.width, dtype=torch.float64, device=device))
    for _ in range(MORE_STARTS):
        start = torch.randn(search.starts, count, generator=generator, dtype=torch.float64).to(device)
        known.add(_fit(pattern, pattern.starts(start), search.steps))
        if known.often_enough():
            break
    for _ in range(ROUNDS):
        before = len(known.heavy())
        known.add(_fit(pattern, pattern.relatives(known.heavy()[: search.slots]), search.steps))
        if len(known.heavy()) <= before:
            break
    mixture = known.laplace(search.slots)
    if count <= search.adapt:
        mixture = adapted(mixture, pattern.log_posterior, pattern.twins, generator)
    elif pattern.background is not None:
        return _anchor(along_scale(pattern, mixture, lambda p, z: _fit(p, z, FOLLOWED)))
    # the first rows of a Cholesky factor are the factor of the first coordinates' own covariance
    location, factor = mixture.location[:, :count], mixture.factor[:, :count, :count]
    return _anchor(Path(mixture.log_weight, location, factor, torch.arange(len(factor), device=device)))


def _fit(pattern: Pattern, z: Tensor, steps: int) -> Tensor:
    """(M, D + E) where fits from (M, D + E) end."""
    size = max(1, VALUES_AT_ONCE // pattern.cosine.numel())
    return torch.cat([_fit_some(pattern, part, steps) for part in z.split(size)])


def _fit_some(pattern: Pattern, z: Tensor, steps: int) -> Tensor:
    z, damping = z.clone(), torch.full_like(z[:, :1], DAMPING[0])
    value = pattern.log_posterior(z)
    going = torch.arange(len(z), device=z.device)
    for _ in range(steps):
        curvature, gradient = pattern.normal_equations(z[going])
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        step = torch.linalg.solve(curvature + torch.diag_embed(damping[going] * diagonal), gradient)
        moved = z[going] - step.clamp(-LONGEST, LONGEST)
        new = pattern.log_posterior(moved)
        gain = new - value[going]
        better = gain > 0
        taken = going[better]
        z[taken], value[taken] = moved[better], new[better]
        damping[going] = (damping[going] * torch.where(better, 0.3, 4.0)[:, None]).clamp(*DAMPING[1:])
        settled = (better & (gain < CONVERGED)) | (damping[going, 0] > 1e6)
        going = going[~settled]
        if not len(going):
            break
    return z


class _Known:
    """Solutions found so far, and how often.

    Args:
        pattern: that they solve.
        z: (0, D + E).
    """

    def __init__(self, pattern: Pattern, z: Tensor) -> None:
        self.pattern, self.z = pattern, z
        self.evidence = z.new_zeros(0)
        self.factor = z.new_zeros(0, z.shape[1], z.shape[1])
        self.repeats = z.new_zeros(0)

    def add(self, fits: Tensor) -> None:
        """Add (M, D + E) ends of fits."""
        value = self.pattern.log_posterior(fits)
        order = value.argsort(descending=True)
        best = max(float(value.max()), float(self._peaks().max()) if len(self.z) else -torch.inf)
        order = order[value[order] > best - NEGLIGIBLE - FLAT]
        fits = fits[order]
        while len(fits):
            near = self._distances(fits)
            found = near.amin(1) < SAME if len(self.z) else near.new_zeros(len(fits), dtype=torch.bool)
            if bool(found.any()):
                nearest = near[found].argmin(1)
                self.repeats += torch.bincount(nearest, minlength=len(self.z)).to(self.repeats)
            fits = fits[~found]
            if len(fits):
                self._put(fits[:1])
                if float(self._distances(self.pattern.twins(fits[:1])).min()) >= SAME:
                    self._put(self.pattern.twins(fits[:1]))

    def _put(self, z: Tensor) -> None:
        factor = self.pattern.factors(z)
        volume = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        self.z, self.factor = torch.cat([self.z, z]), torch.cat([self.factor, factor])
        self.evidence = torch.cat([self.evidence, self.pattern.log_posterior(z) + volume])
        self.repeats = torch.cat([self.repeats, self.repeats.new_zeros(1)])

    def _peaks(self) -> Tensor:
        return self.evidence - self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def _distances(self, fits: Tensor) -> Tensor:
        """(M, K) distance to each solution, in its standard deviations per square root of D."""
        columns = []
        for z, factor in zip(self.z, self.factor, strict=True):
            white = torch.linalg.solve_triangular(factor, (fits - z).mT, upper=False)
            columns.append(white.norm(dim=0) / fits.shape[1] ** 0.5)
        return torch.stack(columns, 1) if columns else fits.new_zeros(len(fits), 0)

    def often_enough(self) -> bool:
        """Whether each solution that weighs something was found several times."""
        if not len(self.z):
            return False
        heavy = self.evidence > self.evidence.max() - HEAVY
        return bool((self.repeats[heavy] + 1 >= OFTEN).all())

    def heavy(self) -> Tensor:
        """(K, D + E) solutions that weigh something, the heaviest first."""
        order = self.evidence.argsort(descending=True)
        return self.z[order[self.evidence[order] > self.evidence.max() - NEGLIGIBLE]]

    def laplace(self, slots: int) -> Mixture:
        """Gaussians of the heaviest solutions."""
        order = self.evidence.argsort(descending=True)[:slots]
        order = order[self.evidence[order] > self.evidence.max() - NEGLIGIBLE]
        return Mixture(torch.log_softmax(self.evidence[order], 0), self.z[order], self.factor[order])


def _anchor(path: Path) -> Anchor:
    """Components in the order of their weights, with what is said of them."""
    log_weight, location, factor, answer = (part[path.log_weight.argsort(descending=True)] for part in path)
    volume = factor.diagonal(dim1=1, dim2=2).log().mean(1)
    spread = location.square().mean(1).sqrt()
    features = torch.stack([log_weight, volume, spread, answer.to(volume)], 1)
    return Anchor(location, factor, features)
