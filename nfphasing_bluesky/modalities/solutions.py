"""All the solutions of one coherent pattern that many fits find, as anchors with weights.

Fits start at draws of the prior; a fit is Levenberg's and Marquardt's, in the coordinates z in which the
prior is the standard normal, so it cannot leave the bounds. The inversion twin of every solution is another
one, as probable; the neighbours one pixel away along each axis start fits too, as long as that finds more.
What fits end in more than once is one solution. Starts are added until every one of the solutions that weigh
something was found several times.

Around each solution stands a Gaussian (Laplace's method). In few dimensions the Gaussians and their weights
follow the posterior by ensembles of walkers, and bridges weigh them (`population`); an object and its twin
are as probable.

Letters: D pixels of the object, P pixels of half the pattern, M fits, K solutions.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.coherent_frames import CoherentBatch
from nfphasing_bluesky.modalities.compact_prior import CompactPrior
from nfphasing_bluesky.modalities.population import Mixture, adapted
from nfphasing_bluesky.physics.coherent import far_field_matrix, friedel_mates, pattern_shape

NEGLIGIBLE = 7.0
"""Nats of evidence below the best from which on a solution is left out."""
SAME = 0.5
"""Two fits are one solution if they lie closer than that, in standard deviations per pixel's square root."""
OFTEN = 4
ROUNDS, MORE_STARTS = 4, 4
FEATURES = 3
FLAT, HEAVY = 20.0, 4.0
SCALES, SCALE_STEP, SCALE_STARTS, FINER = 5, 1.35, 6, 5
"""Powers of the first step tried each way, fits of each, and how often the step is halved then."""
DAMPING = (1e-1, 1e-9, 1e9)
LONGEST = 2.0
CONVERGED = 1e-6
VALUES_AT_ONCE = 2**24


@dataclass(frozen=True, eq=False)
class Pattern:
    """Half of a pattern, |q| alone: mates are averaged with their weights.

    Args:
        prior: of the object.
        cosine, sine: (P, D) amplitudes per density.
        intensity: (P,) over the scale.
        root_weight: (P,) 1/sigma, of the same; 0 where nothing was measured.
    """

    prior: CompactPrior
    cosine: Tensor
    sine: Tensor
    intensity: Tensor
    root_weight: Tensor

    def residuals(self, z: Tensor) -> Tensor:
        """(M, P) of (M, D)."""
        u = self.prior.density(z)
        found = (u @ self.cosine.mT).square() + (u @ self.sine.mT).square()
        return (found - self.intensity) * self.root_weight

    def log_posterior(self, z: Tensor) -> Tensor:
        """(M,) of (M, D), up to a constant."""
        return -0.5 * (self.residuals(z).square().sum(1) + z.square().sum(1))

    def normal_equations(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D, D) Gauss-Newton curvature and (M, D) gradient of minus the log posterior."""
        u = self.prior.density(z)
        real, imaginary = u @ self.cosine.mT, u @ self.sine.mT
        residual = (real.square() + imaginary.square() - self.intensity) * self.root_weight
        by_u = 2 * (real[..., None] * self.cosine + imaginary[..., None] * self.sine)
        slopes = self.prior.slopes(z, by_u * self.root_weight[:, None])
        unit = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        return slopes.mT @ slopes + unit, (slopes.mT @ residual[..., None])[..., 0] + z

    def factors(self, z: Tensor) -> Tensor:
        """(M, D, D) Cholesky factors of the inverse curvature at (M, D)."""
        inverse = torch.linalg.inv(torch.linalg.cholesky(self.normal_equations(z)[0]))
        return torch.linalg.cholesky(inverse.mT @ inverse)


def half_pattern(batch: CoherentBatch, index: int, prior: CompactPrior) -> Pattern:
    """Take one frame of a batch for the fits, float64."""
    mates = friedel_mates(pattern_shape(prior.shape)).to(batch.intensity.device)
    weight = batch.weight[index].flatten()
    value = batch.intensity[index].double().flatten() * weight
    own = torch.arange(len(mates), device=mates.device)
    alone = (mates == own).double()
    both, total = weight + (1 - alone) * weight[mates], value + (1 - alone) * value[mates]
    kept = ((own <= mates) & (both > 0)).nonzero()[:, 0]
    scale = batch.scale[index]
    cosine, sine = far_field_matrix(prior.shape, kept, torch.float64)
    intensity = total[kept] / both[kept] / scale
    return Pattern(prior, cosine, sine, intensity, both[kept].sqrt() * scale)


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
    """(K, ...) anchors of one frame, the heaviest first; features are (log weight, log volume, size of z).

    Slots that are not needed repeat the first solution with a log weight of minus infinity.
    """
    count = pattern.cosine.shape[1]
    device = pattern.cosine.device
    known = _Known(pattern, torch.empty(0, count, dtype=torch.float64, device=device))
    for _ in range(MORE_STARTS):
        start = torch.randn(search.starts, count, generator=generator, dtype=torch.float64).to(device)
        known.add(_fit(pattern, start, search.steps))
        if known.often_enough():
            break
    for _ in range(ROUNDS):
        before = len(known.heavy())
        known.add(_fit(pattern, _relatives(known.heavy()[: search.slots], pattern.prior), search.steps))
        if len(known.heavy()) <= before:
            break
    mixture = known.laplace(search.slots)
    if count <= search.adapt:
        mixture = adapted(mixture, pattern.log_posterior, _twins, generator)
    return _anchor(mixture, search.slots)


def best_scale(batch: CoherentBatch, index: int, prior: CompactPrior, steps: int) -> float:
    """Scale of one frame under which a fit has the largest evidence, among those near the frame's own."""
    start = torch.randn(SCALE_STARTS, prior.mean.numel(), generator=torch.Generator().manual_seed(0))
    start = start.to(batch.scale)

    def fitted(scale: float, begin: Tensor) -> tuple[float, float, Tensor]:
        """Evidence, scale and where the best fit ends."""
        tried = replace(batch, scale=torch.full_like(batch.scale, scale))
        pattern = half_pattern(tried, index, prior)
        z = _fit(pattern, begin, steps)
        z = z[pattern.log_posterior(z).argmax()][None]
        volume = pattern.factors(z).diagonal(dim1=1, dim2=2).log().sum()
        return float(pattern.log_posterior(z)[0] + volume), scale, z

    own, step = float(batch.scale[index]), SCALE_STEP
    tries = [fitted(own * step**power, start) for power in range(-SCALES, SCALES + 1)]
    best = max(tries, key=lambda found: found[0])
    for _ in range(FINER):
        step **= 0.5
        near = [fitted(best[1] * factor, best[2]) for factor in (1 / step, step)]
        best = max([best, *near], key=lambda found: found[0])
    return best[1]


def _fit(pattern: Pattern, z: Tensor, steps: int) -> Tensor:
    """(M, D) where fits from (M, D) end."""
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


def _twins(z: Tensor) -> Tensor:
    """(..., D) inversion twins; the prior's root is the same after inversion."""
    return z.flip(-1)


def _relatives(z: Tensor, prior: CompactPrior) -> Tensor:
    """(K', D) near (K, D) solutions one pixel away along each axis."""
    u = prior.density(z).unflatten(1, prior.shape)
    moved = []
    for axis, pixels in enumerate(prior.shape, start=1):
        for way in (-1, 1) if pixels > 1 else ():
            shifted = u.roll(way, axis)
            shifted.select(axis, 0 if way > 0 else -1).zero_()
            moved.append(prior.nearest(shifted.flatten(1)))
    return torch.cat(moved)


class _Known:
    """Solutions found so far, and how often.

    Args:
        pattern: that they solve.
        z: (0, D).
    """

    def __init__(self, pattern: Pattern, z: Tensor) -> None:
        self.pattern, self.z = pattern, z
        self.evidence = z.new_zeros(0)
        self.factor = z.new_zeros(0, z.shape[1], z.shape[1])
        self.repeats = z.new_zeros(0)

    def add(self, fits: Tensor) -> None:
        """Add (M, D) ends of fits."""
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
                if float(self._distances(_twins(fits[:1])).min()) >= SAME:
                    self._put(_twins(fits[:1]))

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
        """(K, D) solutions that weigh something, the heaviest first."""
        order = self.evidence.argsort(descending=True)
        return self.z[order[self.evidence[order] > self.evidence.max() - NEGLIGIBLE]]

    def laplace(self, slots: int) -> Mixture:
        """Gaussians of the heaviest solutions."""
        order = self.evidence.argsort(descending=True)[:slots]
        order = order[self.evidence[order] > self.evidence.max() - NEGLIGIBLE]
        return Mixture(torch.log_softmax(self.evidence[order], 0), self.z[order], self.factor[order])


def _anchor(mixture: Mixture, slots: int) -> Anchor:
    order = mixture.log_weight.argsort(descending=True)
    index = torch.cat([order, order.new_zeros(slots - len(order)) + order[0]])
    log_weight = mixture.log_weight[index].clone()
    log_weight[len(order) :] = -torch.inf
    factor = mixture.factor[index]
    volume = factor.diagonal(dim1=1, dim2=2).log().mean(1)
    spread = mixture.location[index].square().mean(1).sqrt()
    features = torch.stack([log_weight, volume, spread], 1)
    return Anchor(mixture.location[index], factor, features)
