"""Simulated frames in rounds: each round is simulated and fitted once, and gone through several times."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities import Anchors, Draws, Modality
from nfphasing_bluesky.training.settings import TrainSettings

AT_ONCE = 256
"""Frames simulated together, at least: a few at a time take longer."""


class Labelled(NamedTuple):
    """Frames of one step: what the network takes, and the truth."""

    channels: Tensor
    extra: Tensor
    anchors: Anchors
    draws: Draws


class Round:
    """`round_batches` batches of fresh frames in memory, each frame with the anchor of its true class.

    Where a frame has several answers it has the anchors of all.

    Args:
        modality: that simulates.
        settings: of the run.
        generator: of every random number.
    """

    @torch.no_grad()
    def __init__(self, modality: Modality, settings: TrainSettings, generator: Generator) -> None:
        self._batch = settings.batch
        made: list[tuple[Any, ...]] = []
        while sum(len(m[0]) for m in made) < settings.round_batches * settings.batch:
            made.append(_simulate(modality, settings, generator))
        self._channels, self._extra, self._label, self._theta = (
            torch.cat([m[i] for m in made]) for i in range(4)
        )
        self._anchors: list[tuple[int, Tensor, Anchor]] = []
        for k in sorted({k for m in made for k in m[4]}):
            place, parts, first, count = torch.full_like(self._label, -1), [], 0, 0
            for m in made:
                if k in m[4]:
                    rows, anchor = m[4][k]
                    place[first + rows] = count + torch.arange(len(rows), device=rows.device)
                    parts.append(anchor)
                    count += len(rows)
                first += len(m[0])
            joined = (torch.cat([getattr(p, f) for p in parts]) for f in ("location", "factor", "features"))
            self._anchors.append((k, place, Anchor(*joined)))
        count = settings.round_batches * settings.batch
        device = generator.device
        self._order = torch.cat(
            [torch.randperm(count, generator=generator, device=device) for _ in range(settings.reuse)]
        )

    def take(self, place: int) -> Labelled:
        """Frames of the step at this place in the round."""
        rows = self._order[place * self._batch : (place + 1) * self._batch]
        label, frame = self._label[rows], torch.arange(len(rows), device=rows.device)
        anchors = Anchors(len(rows))
        for k, place_of, anchor in self._anchors:
            mine = (place_of[rows] >= 0).nonzero()[:, 0]
            if mine.numel():
                anchors.put(k, mine, anchor.at(place_of[rows[mine]]))
        return Labelled(
            self._channels[rows], self._extra[rows], anchors, Draws(label, self._theta[rows], frame)
        )


class Simulated(NamedTuple):
    """Fresh frames with their objects and the truth of every reported parameter."""

    batch: Any
    draws: Draws
    truth: dict[str, Tensor]


@torch.no_grad()
def simulate_usable(
    modality: Modality, n: int, generator: Generator, sample: Callable[[int, Generator], Draws] | None = None
) -> Simulated:
    """About n fresh frames (at least 1), less those whose signal is too weak to be used.

    Such frames are refused at the beamline too. Refusing by what was measured leaves posteriors as they are,
    so the exposure may reach down to where nothing can be seen, and the prior of the scale has no edge there.
    """
    draws = (sample or modality.sample_prior)(n, generator)
    batch, truth = modality.simulate(draws, generator)
    kept = modality.usable(batch).nonzero()[:, 0]
    if not kept.numel():
        return simulate_usable(modality, n, generator, sample)
    frame = torch.arange(len(kept), device=kept.device)
    chosen = Draws(draws.label[kept], draws.theta[kept], frame)
    return Simulated(batch.at(kept), chosen, {name: value[kept] for name, value in truth.items()})


def _simulate(modality: Modality, settings: TrainSettings, generator: Generator) -> tuple[Any, ...]:
    names = [c.name for c in modality.classes]

    def sample(n: int, g: Generator) -> Draws:
        if not settings.only:
            return modality.sample_prior(n, g, settings.inner)
        draws = modality.sample_prior(n * len(names), g, settings.inner)
        chosen = (draws.label == names.index(settings.only)).nonzero()[:, 0]
        return Draws(draws.label[chosen], draws.theta[chosen], torch.arange(len(chosen), device=g.device))

    count = min(max(settings.batch, AT_ONCE), settings.round_batches * settings.batch)
    batch, draws, _ = simulate_usable(modality, count, generator, sample)
    channels, extra = modality.context(batch)
    found = modality.anchors(batch)
    if modality.symmetry is None:
        rows = {int(k): (draws.label == k).nonzero()[:, 0] for k in draws.label.unique()}
    else:
        rows = dict.fromkeys(found.kinds, torch.arange(len(draws), device=draws.label.device))
    anchors = {k: (mine, found.get(k, mine)) for k, mine in rows.items()}
    return channels, extra, draws.label, draws.theta, anchors
