"""Fits of one coherent pattern, and the peaks that they end at: which were found, and how often.

A fit is Levenberg's and Marquardt's, in the coordinates of `half_pattern`, in which the prior is the standard
normal, so it cannot leave the bounds. What fits end in more than once is one peak. The inversion twin of each
is another one, as probable.

Letters: D pixels of the object, E further coordinates (scale and background, or none), M fits, K peaks.
"""

import torch
from torch import Tensor

from nfphasing_bluesky.modalities.coherent.half_pattern import Pattern
from nfphasing_bluesky.modalities.coherent.population import Mixture

NEGLIGIBLE = 7.0
"""Nats of evidence below the best from which on a peak is left out."""
SAME = 0.5
"""Two fits are one peak if they lie closer than that, in standard deviations per pixel's square root."""
OFTEN = 4
FLAT, HEAVY = 20.0, 4.0
FAR = 40.0
"""Nats of evidence below the best from which on the ridge of a peak is not looked at."""
DAMPING = (1e-1, 1e-9, 1e9)
LONGEST = 2.0
CONVERGED = 1e-6
VALUES_AT_ONCE = 2**24


def fit(pattern: Pattern, z: Tensor, steps: int) -> Tensor:
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


class Known:
    """Peaks found so far, how often, and whose inversion twin each is.

    Args:
        pattern: that they solve.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.z = pattern.cosine.new_zeros(0, pattern.width)
        self.evidence, self.hits = self.z.new_zeros(0), self.z.new_zeros(0)
        self.factor = self.z.new_zeros(0, pattern.width, pattern.width)
        self.partner = torch.zeros(0, dtype=torch.long, device=self.z.device)
        self.starts = 0

    def begin(self, start: Tensor, steps: int) -> None:
        """Add where fits end that begin at objects (M, D) of the prior."""
        self.starts += len(start)
        self.add(fit(self.pattern, self.pattern.starts(start), steps), 1.0)

    def add(self, fits: Tensor, hit: float = 0.0) -> None:
        """Add (M, D + E) ends of fits, each found so many times."""
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
                self.hits += hit * torch.bincount(nearest, minlength=len(self.z)).to(self.hits)
            fits = fits[~found]
            if len(fits):
                self._put(fits[:1], len(self.z), hit)
                twin = self.pattern.twins(fits[:1])
                if float(self._distances(twin).min()) >= SAME:
                    self.partner[-1] = len(self.z)
                    self._put(twin, len(self.z) - 1, 0.0)
                fits = fits[1:]

    def _put(self, z: Tensor, partner: int, hit: float) -> None:
        factor = self.pattern.factors(z)
        volume = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        self.z, self.factor = torch.cat([self.z, z]), torch.cat([self.factor, factor])
        self.evidence = torch.cat([self.evidence, self.pattern.log_posterior(z) + volume])
        self.hits = torch.cat([self.hits, self.hits.new_full((1,), hit)])
        self.partner = torch.cat([self.partner, self.partner.new_full((1,), partner)])

    def _peaks(self) -> Tensor:
        return self.evidence - self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def _distances(self, fits: Tensor) -> Tensor:
        """(M, K) distance to each peak, in its standard deviations per square root of D."""
        columns = []
        for z, factor in zip(self.z, self.factor, strict=True):
            white = torch.linalg.solve_triangular(factor, (fits - z).mT, upper=False)
            columns.append(white.norm(dim=0) / fits.shape[1] ** 0.5)
        return torch.stack(columns, 1) if columns else fits.new_zeros(len(fits), 0)

    @property
    def pair_hits(self) -> Tensor:
        """(K,) how many starts ended at a peak or its twin."""
        own = torch.arange(len(self.z), device=self.partner.device)
        return self.hits + torch.where(self.partner == own, 0.0, self.hits[self.partner])

    def often_enough(self) -> bool:
        """Whether each peak that weighs something was found several times, and its twin too."""
        if not len(self.z):
            return False
        heavy = self.evidence > self.evidence.max() - HEAVY
        return bool((self.pair_hits[heavy] >= 2 * OFTEN).all())

    def heavy(self) -> Tensor:
        """(K',) indices of peaks that weigh something, the heaviest first."""
        return self._within(NEGLIGIBLE)

    def one_of_each(self, most: int) -> Tensor:
        """(K',) indices of peaks whose ridges may weigh something, without twins, the heaviest first."""
        order = self._within(FAR)
        return order[self.partner[order] >= order][:most]

    def _within(self, nats: float) -> Tensor:
        order = self.evidence.argsort(descending=True)
        return order[self.evidence[order] > self.evidence.max() - nats]

    def laplace(self, index: Tensor) -> Mixture:
        """Gaussians of some peaks."""
        return Mixture(torch.log_softmax(self.evidence[index], 0), self.z[index], self.factor[index])
