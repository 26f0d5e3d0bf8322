"""All the solutions of one coherent pattern that many fits find, as anchors with weights.

Fits start at draws of the prior. The inversion twin of every peak that they end at (`peaks`) is another one,
as probable; the neighbours one pixel away along each axis start fits too, as long as that finds more. Starts
are added until every one of the solutions that weigh something was found several times, or time is up.

Around each solution stands a Gaussian (Laplace's method), or a row of them where the scale is not known
(`scale_path`): there the ridges of all peaks are followed, and only these tell which ones weigh something.
In few dimensions the Gaussians and their weights follow the posterior by ensembles of walkers instead, and
bridges weigh them (`population`); an object and its twin are as probable.

What was found only once says how much has not been found: n fits of N that ended where no other did make
n / N the probability that another start finds something new (Good, Biometrika 40, 237 (1953)).

Letters: D pixels of the object, E further coordinates (scale and background, or none), K solutions or ridges.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities.coherent.half_pattern import Pattern
from nfphasing_bluesky.modalities.coherent.peaks import Known, fit
from nfphasing_bluesky.modalities.coherent.population import adapted
from nfphasing_bluesky.modalities.coherent.scale_path import Path, along_scale, told_apart

ROUNDS, MORE_STARTS = 4, 4
LEAST_ROUNDS, MOST_ROUNDS = 4, 16
"""Rounds of starts where ridges are followed."""
RIDGES_PER_SLOT = 6
ONCE = 1.5
"""Fits of a solution and its twin, below which it counts as found once."""
WORTH = 0.02
"""Weight from which on a solution, with its twin, must have been found more than once."""
LOG_WEIGHT, ANSWER, MISSING = 0, 3, 4
"""Columns of the features that say how much a component weighs, which solution it belongs to, and the
probability that another start finds a solution of weight that is not among them."""
FOLLOWED = 12
"""Steps of a fit that begins next to where it ends, at most."""


@dataclass(frozen=True)
class Search:
    """How hard to look.

    Args:
        starts: draws of the prior that fits start at, at first; up to four times as many where it needs that,
            and where the scale is not known between four and 16 times as many.
        steps: of each fit at most.
        slots: solutions kept where the scale is known; six times as many ridges are followed where it is not.
        adapt: dimensions up to which the Gaussians are moved to the posterior.
        patience: how many times as many starts there may be at most.
    """

    starts: int
    steps: int
    slots: int
    adapt: int = 16
    patience: float = 1.0


def solutions(pattern: Pattern, search: Search, generator: torch.Generator) -> Anchor:
    """(C, ...) anchors of one frame, the heaviest first: one for each solution, or several along its scale.

    Features are log weight, log volume, size of z, the number of the solution, and the probability that
    another start finds a solution that is missing.
    """
    known = Known(pattern)
    if pattern.pixels > search.adapt and pattern.background is not None:
        return _anchor(*_ridges(known, search, generator))
    for _ in range(round(MORE_STARTS * search.patience)):
        known.begin(_starts(known, search, generator), search.steps)
        if known.often_enough():
            break
    for _ in range(ROUNDS):
        before = len(known.heavy())
        known.add(fit(pattern, pattern.relatives(known.z[known.heavy()[: search.slots]]), search.steps))
        if len(known.heavy()) <= before:
            break
    kept = known.heavy()[: search.slots]
    mixture = known.laplace(kept)
    if pattern.pixels <= search.adapt:
        mixture = adapted(mixture, pattern.log_posterior, pattern.twins, generator)
    # the first rows of a Cholesky factor are the factor of the first coordinates' own covariance
    location = mixture.location[:, : pattern.pixels]
    factor = mixture.factor[:, : pattern.pixels, : pattern.pixels]
    answer = torch.arange(len(kept), device=kept.device)
    missing = _missing(mixture.log_weight, known.pair_hits[kept], known.starts)
    return _anchor(Path(mixture.log_weight, location, factor, answer), missing)


def _starts(known: Known, search: Search, generator: torch.Generator) -> Tensor:
    start = torch.randn(search.starts, known.pattern.pixels, generator=generator, dtype=torch.float64)
    return start.to(known.z)


def _missing(log_weight: Tensor, pair_hits: Tensor, starts: int) -> float:
    """Probability that another start finds a solution of weight that is not there, from those found once."""
    once = (2 * log_weight.exp() > WORTH) & (pair_hits < ONCE)
    # every solution stands beside its twin
    return min(1.0, 0.5 * float(once.sum()) / starts)


def _ridges(known: Known, search: Search, generator: torch.Generator) -> tuple[Path, float]:
    """Gaussians along the ridges of all solutions, and the probability that another start finds a new one."""
    followed = _Followed(known, RIDGES_PER_SLOT * search.slots)
    for number in range(1, round(MOST_ROUNDS * search.patience) + 1):
        known.begin(_starts(known, search, generator), search.steps)
        if number >= LEAST_ROUNDS:
            path, missing = followed.solutions()
            if not missing:
                break
    for _ in range(ROUNDS):
        before = len(followed.weighty)
        known.add(fit(known.pattern, known.pattern.relatives(known.z[followed.weighty]), search.steps))
        path, missing = followed.solutions()
        if len(followed.weighty) <= before:
            break
    return path, missing


@dataclass(eq=False)
class _Followed:
    """Ridges of peaks that were followed so far, each peak once and not its twin.

    Args:
        known: peaks.
        most: ridges.
        peaks: (K,) indices of the peaks.
        paths: of the peaks, in parts.
        weighty: indices of the peaks whose ridges are solutions that weigh something.
    """

    known: Known
    most: int
    peaks: list[int] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    weighty: list[int] = field(default_factory=list)

    def solutions(self) -> tuple[Path, float]:
        """All that is known so far, twins among it, and the probability that something is missing."""
        pattern = self.known.pattern
        there = set(self.peaks)
        new = [k for k in self.known.one_of_each(self.most).tolist() if k not in there]
        if new:
            found = self.known.laplace(torch.tensor(new, device=self.known.z.device))
            path = along_scale(pattern, found, lambda p, z: fit(p, z, FOLLOWED))
            self.paths.append(path._replace(answer=path.answer + len(self.peaks)))
            self.peaks += new
        one = _joined(self.paths)
        count = len(self.peaks)
        path, same = told_apart(_joined([one, one.mirrored(pattern.twins, one.answer + count)]), 2 * count)
        return path, self._weigh(path, same)

    def _weigh(self, path: Path, same: Tensor) -> float:
        """Note which solutions weigh something; the probability that one is missing."""
        count = len(self.peaks)
        answers = path.answer.unique()
        self.weighty = [self.peaks[k] for k in (answers % count).unique().tolist()]
        # peaks of one solution, or of its twin
        of = (same[:, None] == answers).view(2, count, -1).any(0).to(self.known.hits)
        hits = self.known.pair_hits[self.peaks] @ of
        return _missing(path.weights(2 * count)[answers], hits, self.known.starts)


def _joined(paths: list[Path]) -> Path:
    return Path(*(torch.cat(parts) for parts in zip(*paths, strict=True)))


def _anchor(path: Path, missing: float) -> Anchor:
    """Components in the order of their weights, with what is said of them."""
    log_weight, location, factor, answer = (part[path.log_weight.argsort(descending=True)] for part in path)
    volume = factor.diagonal(dim1=1, dim2=2).log().mean(1)
    spread = location.square().mean(1).sqrt()
    doubt = torch.full_like(volume, missing)
    features = torch.stack([log_weight, volume, spread, answer.to(volume), doubt], 1)
    return Anchor(location, factor, features)
