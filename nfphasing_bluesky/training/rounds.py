"""Simulated frames in rounds: each round is simulated and fitted once, and gone through several times."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.modalities import Anchors, Draws, Modality
from nfphasing_bluesky.training.companions import companions
from nfphasing_bluesky.training.settings import TrainSettings

AT_ONCE = 256
"""Frames simulated together, at least: a few at a time take longer."""


_OWN = ("channels", "extra", "label", "theta", "companions")
_ANCHOR = ("location", "factor", "features")


class Labelled(NamedTuple):
    """Frames of one step: what the network takes, and the truth."""

    channels: Tensor
    extra: Tensor
    anchors: Anchors
    draws: Draws


@dataclass(frozen=True)
class RoundFrames:
    """N simulated frames and the anchor of each one's true class; of all answers where it has several.

    Args:
        channels, extra: what the network takes.
        label: (N,) class.
        theta: (N, D) object.
        companions: (N, C, D) objects that are as good an answer to the frame as its own; C may be 0.
        anchors: of each class the place (N,) in its anchors, -1 for none, and these.
    """

    channels: Tensor
    extra: Tensor
    label: Tensor
    theta: Tensor
    companions: Tensor
    anchors: Mapping[int, tuple[Tensor, Anchor]]

    def save(self, path: Path) -> None:
        """Write them to a safetensors file; a kill in between leaves none."""
        out = {name: getattr(self, name) for name in _OWN}
        for k, (place, anchor) in self.anchors.items():
            out[f"anchor.{k}.place"] = place
            out |= {f"anchor.{k}.{name}": getattr(anchor, name) for name in _ANCHOR}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({name: value.cpu().contiguous() for name, value in out.items()}, partial)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "RoundFrames":
        """Read what `save` wrote."""
        there = load_file(path, device=str(device))
        kinds = sorted({int(name.split(".")[1]) for name in there if name.startswith("anchor.")})
        anchors = {
            k: (there[f"anchor.{k}.place"], Anchor(*(there[f"anchor.{k}.{name}"] for name in _ANCHOR)))
            for k in kinds
        }
        return cls(anchors=anchors, **{name: there[name] for name in _OWN})


@torch.no_grad()
def simulate_round(
    modality: Modality, settings: TrainSettings, generator: Generator, start: nn.Module | None = None
) -> RoundFrames:
    """Simulate and fit the frames of a round, somewhat more than its batches take.

    Companions of its objects are draws of the network `start`.
    """
    made: list[tuple[Any, ...]] = []
    while sum(len(m[0]) for m in made) < settings.round_batches * settings.batch:
        made.append(_simulate(modality, settings, generator, start))
    channels, extra, label, theta, others = (torch.cat([m[i] for m in made]) for i in range(5))
    anchors: dict[int, tuple[Tensor, Anchor]] = {}
    for k in sorted({k for m in made for k in m[5]}):
        place, parts, first, count = torch.full_like(label, -1), [], 0, 0
        for m in made:
            if k in m[5]:
                rows, anchor = m[5][k]
                place[first + rows] = count + torch.arange(len(rows), device=rows.device)
                parts.append(anchor)
                count += len(rows)
            first += len(m[0])
        anchors[k] = place, Anchor(*(torch.cat([getattr(p, f) for p in parts]) for f in _ANCHOR))
    return RoundFrames(channels, extra, label, theta, others, anchors)


class Round:
    """The batches of one round, its frames gone through `reuse` times in random order.

    Args:
        frames: of the round.
        settings: of the run.
        generator: of the order.
    """

    def __init__(self, frames: RoundFrames, settings: TrainSettings, generator: Generator) -> None:
        self._batch, self._frames = settings.batch, frames
        count = settings.round_batches * settings.batch
        device = generator.device
        self._order = torch.cat(
            [torch.randperm(count, generator=generator, device=device) for _ in range(settings.reuse)]
        )
        choices = frames.companions.shape[1]
        self._which = torch.randint(choices, (len(self._order),), generator=generator) if choices else None

    def take(self, place: int) -> Labelled:
        """Frames of the step at this place in the round."""
        here = slice(place * self._batch, (place + 1) * self._batch)
        rows, own = self._order[here], self._frames
        theta = own.theta[rows] if self._which is None else own.companions[rows, self._which[here]]
        label, frame = own.label[rows], torch.arange(len(rows), device=rows.device)
        anchors = Anchors(len(rows))
        for k, (place_of, anchor) in own.anchors.items():
            mine = (place_of[rows] >= 0).nonzero()[:, 0]
            if mine.numel():
                anchors.put(k, mine, anchor.at(place_of[rows[mine]]))
        return Labelled(own.channels[rows], own.extra[rows], anchors, Draws(label, theta, frame))


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


def _simulate(
    modality: Modality, settings: TrainSettings, generator: Generator, start: nn.Module | None
) -> tuple[Any, ...]:
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
    others = draws.theta[:, None, :][:, :0]
    if start is not None and settings.companions:
        distribution = start(channels, extra, found)
        others = companions(modality, distribution, batch, draws, settings.companions, generator)
    return channels, extra, draws.label, draws.theta, others, anchors
