"""Reconstructor: a batch of frames in, a batch of posteriors out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nfphasing_bluesky import __version__
from nfphasing_bluesky.core import (
    Failure,
    Frame,
    ModelInfo,
    Origin,
    Posterior,
    Prediction,
    ReconstructionSettings,
    Trust,
)
from nfphasing_bluesky.core.neighbours import with_neighbours
from nfphasing_bluesky.inference.built import built
from nfphasing_bluesky.inference.classes import PILOTS, weigh_classes
from nfphasing_bluesky.inference.collated import Collated, collate, in_parts, most_frames, padded
from nfphasing_bluesky.inference.device import pick_device
from nfphasing_bluesky.inference.drawing import Drawn, HowToDraw
from nfphasing_bluesky.inference.graphs import CALLS_BEFORE, replay
from nfphasing_bluesky.inference.second_look import STARTS, look_again
from nfphasing_bluesky.inference.seeds import normal_of
from nfphasing_bluesky.inference.summaries import bands, mean_and_std
from nfphasing_bluesky.inference.threads import side_by_side
from nfphasing_bluesky.inference.transfers import sent_ahead, to_host
from nfphasing_bluesky.inference.trust import doubted, judge, noted, outside
from nfphasing_bluesky.modalities import (
    AdvisesMisfits,
    Anchors,
    Distribution,
    DoubtsFrames,
    Draws,
    FitsAgain,
    Modality,
    NeedsNoGradients,
    SearchesAnswers,
    SeesFrames,
    SurveysScans,
)
from nfphasing_bluesky.models import Card, EmbeddingReference, StoredModel
from nfphasing_bluesky.models import load as load_model

Result = Posterior | Failure

# Batches that a GPU is prepared for; `padded` fills others up to one of these.
SIZES = (1, 2, 4, 8, 16, 32, 64)

# Modes that a derived run keeps of a frame with several answers.
ANSWERS = 4


class Conditioned(NamedTuple):
    """A batch on the device, its anchors, and the distribution of its objects."""

    batch: Any
    anchors: Anchors
    distribution: Distribution


class Reconstructor:
    """A model ready to be run. Holds no open handles; build one in each process.

    Args:
        card: of the model.
        modality: that the weights belong to.
        network: with its weights, in evaluation mode.
        reference: where the training set's embeddings lie.
        settings: how frames become posteriors.
        device: where it runs.
    """

    def __init__(
        self,
        card: Card,
        modality: Modality,
        network: nn.Module,
        reference: EmbeddingReference | None,
        settings: ReconstructionSettings | None = None,
        device: str = "auto",
    ) -> None:
        self.card, self.modality, self.reference = card, modality, reference
        self.settings = settings or ReconstructionSettings()
        if self.settings.search > 1 and isinstance(modality, SearchesAnswers):
            self.modality = modality.searching(self.settings.search)
        self.device = pick_device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        if self.device.type == "cuda":
            replay(self.network)
        self.info = ModelInfo(
            name=card.name,
            modality=card.modality,
            version=__version__,
            sha256=card.sha256,
            density=modality.density_info,
            parameters=modality.parameters,
            classes=tuple(c.name for c in modality.classes) if len(modality.classes) > 1 else (),
            neighbours=modality.neighbours,
            answers=0 if modality.symmetry is None else ANSWERS,
            whole_frames=isinstance(modality, SeesFrames),
        )

    @property
    def sigma_floor(self) -> float:
        """Relative systematic error that is added to each sigma."""
        asked = self.settings.sigma_floor
        return self.modality.sigma_floor if asked is None else asked

    @property
    def _without_gradients(self) -> bool:
        """Whether torch's inference mode will do: on a GPU, recordings outlive it."""
        return self.device.type == "cpu" and isinstance(self.modality, NeedsNoGradients)

    @classmethod
    def load(
        cls, name_or_path: str | Path, device: str = "auto", settings: ReconstructionSettings | None = None
    ) -> "Reconstructor":
        """Load a shipped model by name or any model folder by path, checking all of it.

        Raises:
            ModelError: no such model, or one whose weights don't fit its card.
            ModelIntegrityError: a file is missing, truncated, altered or a pickle.
            SettingsError: the device is not there.
        """
        return cls.from_stored(load_model(name_or_path), device, settings)

    @classmethod
    def from_stored(
        cls, stored: StoredModel, device: str = "auto", settings: ReconstructionSettings | None = None
    ) -> "Reconstructor":
        """Build from a model folder that was read. Raises ModelError where its parts don't fit."""
        made, network, reference = built(stored)
        return cls(stored.card, made, network, reference, settings, device)

    def __call__(
        self, frames: Sequence[Frame], n_samples: int | None = None, seed: int | None = None
    ) -> list[Result]:
        """Reconstruct frames, each on its own: a frame that can't be used becomes a Failure.

        Args:
            frames: any number; they run as one batch.
            n_samples: draws of each; the settings' when left out.
            seed: the settings' when left out. The draws of a frame depend on it and on the frame's sequence
                number alone, not on the batch the frame came in.
        """
        began = time.perf_counter()
        order = in_parts(frames, self.modality, n_samples or self.settings.n_samples, self.device)

        def collated(rows: Sequence[int]) -> Collated:
            return collate([frames[i] for i in rows], self.modality, self.info, self.sigma_floor)

        def reconstruct(work: Collated) -> list[Result]:
            return self._reconstruct_part(work, n_samples, seed, began, len(frames))

        if self.device.type == "cpu":
            done = side_by_side(lambda rows: reconstruct(collated(rows)), order)
        else:
            work = (padded(collated(rows)) for rows in order)
            done = [reconstruct(piece) for piece in sent_ahead(work, self.device)]
        results = dict(zip(chain.from_iterable(order), chain.from_iterable(done), strict=True))
        return [results[i] for i in range(len(frames))]

    def _reconstruct_part(
        self, work: Collated, n_samples: int | None, seed: int | None, began: float, share: int
    ) -> list[Result]:
        results: dict[int, Result] = dict(work.failed)
        if work.usable:
            own = [work.frames[i] for i in work.usable]
            with torch.inference_mode(self._without_gradients):
                made = self.reconstruct(
                    work.batch, [f.origin for f in own], n_samples, seed, began, share, own
                )
            results |= {
                i: replace(p, place=frame.place, light=frame.light, trust=self._doubted(p, frame))
                for i, p, frame in zip(work.usable, made, own, strict=True)
            }
        return [results[i] for i in range(len(work.frames))]

    def _doubted(self, posterior: Posterior, frame: Frame) -> Trust:
        words = [frame.doubt]
        if isinstance(self.modality, DoubtsFrames):
            words.append(self.modality.doubt(frame, posterior, self.sigma_floor))
        return doubted(posterior.trust, "; ".join(filter(None, words)))

    def survey(self, frames: Sequence[Frame]) -> list[Frame]:
        """Return the frames of a whole scan as the model takes them best: each knows of the others.

        They get their nearest neighbours, and what the scan as a whole says of the part that each saw. Models
        that look at one frame at a time take them as they are.
        """
        complete = with_neighbours(frames, self.info.neighbours)
        return self.modality.survey(complete) if isinstance(self.modality, SurveysScans) else complete

    @torch.no_grad()
    def reconstruct(
        self,
        batch: Any,
        origins: Sequence[Origin],
        n_samples: int | None = None,
        seed: int | None = None,
        began: float | None = None,
        share: int | None = None,
        frames: Sequence[Frame] | None = None,
        conditioned: Conditioned | None = None,
    ) -> list[Posterior]:
        """Reconstruct a batch that was collated before; `began` and `share` set the latency.

        With its `frames` predictions are on their points, else on those of the batch. What `condition` made
        of the same batch, origins and seed need not be made again.
        """
        began = time.perf_counter() if began is None else began
        s = n_samples or self.settings.n_samples
        seed = self.settings.seed if seed is None else seed
        batch, anchors, distribution = conditioned or self.condition(batch, origins, seed)
        how = HowToDraw(self.modality, self.settings, self.card.thresholds.chi2_warning, self.device)
        drawn = how.draw(batch, distribution, origins, s, seed)
        draws, evaluated = drawn.draws, drawn.evaluated
        tensors = {
            "density": self.modality.density(draws, evaluated.nuisance),
            "predicted": drawn.predicted,
            **{f"parameter.{k}": v for k, v in self.modality.report(draws, evaluated.nuisance).items()},
        }
        split = to_host({k: v.view(len(batch), s, *v.shape[1:]) for k, v in tensors.items()})
        classes = self._classes(distribution, draws.label.view(len(batch), s))
        labels = draws.label.view(len(batch), s).cpu().numpy()
        agreement = self.modality.agreement(batch, anchors)
        checks = self._trust(batch, split["predicted"], distribution.embedding, drawn, agreement)
        trust = [doubted(check, doubt) for check, doubt in zip(checks, drawn.doubts, strict=True)]
        if isinstance(self.modality, SearchesAnswers):
            missing = self.modality.incomplete(batch, anchors)
            trust = [doubted(check, doubt) for check, doubt in zip(trust, missing, strict=True)]
        trust = [noted(t, n) for t, n in zip(trust, drawn.notes or [""] * len(trust), strict=True)]
        predictions = [
            Prediction(*(part.numpy() for part in band))
            for band in zip(*bands(split["predicted"]), strict=True)
        ]
        if frames is not None:
            predictions = [
                self._on_frame(frame, b, draws, evaluated.nuisance, predictions[b])
                for b, frame in enumerate(frames)
            ]
        mean, std = mean_and_std(split["density"])
        latency = (time.perf_counter() - began) / (share or len(batch))
        return [
            Posterior(
                density=self.modality.density_of(batch, b),
                mean=mean[b].numpy(),
                std=std[b].numpy(),
                samples=split["density"][b].numpy(),
                parameters={p.name: split[f"parameter.{p.name}"][b].numpy() for p in self.info.parameters},
                units={p.name: p.unit for p in self.info.parameters},
                prediction=predictions[b],
                trust=trust[b],
                classes=classes[b],
                labels=labels[b] if self.info.classes else labels[b, :0],
                origin=origins[b],
                latency_s=latency,
                symmetry=self.modality.symmetry,
                answers=labels[b, :0] if self.modality.symmetry is None else labels[b],
            )
            for b in range(len(batch))
        ]

    def _on_frame(
        self, frame: Frame, b: int, draws: Draws, nuisance: Mapping[str, Tensor], prediction: Prediction
    ) -> Prediction:
        each = len(draws) // (int(draws.frame[-1]) + 1)
        rows = torch.arange(b * each, (b + 1) * each, device=draws.label.device)
        own = {name: value[rows] for name, value in nuisance.items()}
        return self.modality.on_frame(frame, draws.at(rows), own, prediction)

    @torch.no_grad()
    def warm_up(self) -> None:
        """Reconstruct a simulated frame, and make what the fits of every class need.

        On a GPU, also record the network for every size of a batch.
        """
        generator = torch.Generator().manual_seed(0)
        batch, _ = self.modality.simulate(self.modality.sample_prior(2, generator), generator)
        batch = batch.to(self.device)
        anchors = self.modality.anchors(batch)
        for k in range(len(self.modality.classes)):
            anchors.get(k, torch.zeros(1, dtype=torch.long, device=self.device))
        self.reconstruct(batch, [Origin(), Origin()])
        if self.device.type == "cuda":
            points = batch.intensity[0].numel()
            most = most_frames(points, self.modality, self.settings.n_samples, self.device)
            for size in [size for size in SIZES if size <= most] * CALLS_BEFORE:
                rows = torch.arange(size, device=self.device) % len(batch)
                self.reconstruct(batch.at(rows), [Origin()] * size)

    @torch.no_grad()
    def condition(self, batch: Any, origins: Sequence[Origin], seed: int) -> Conditioned:
        """q(class, theta | I) of a batch, the classes weighed by their evidence."""
        batch = batch.to(self.device)
        anchors = self.modality.anchors(batch)
        network = self.network(*self.modality.context(batch), anchors)
        count, width = len(self.modality.classes), self.modality.width
        if isinstance(self.modality, FitsAgain):
            starts = normal_of(seed + 4, origins, count, STARTS, width)
            network = look_again(self.modality, network, batch, starts.to(self.device))
        if count == 1:
            return Conditioned(batch, anchors, network)
        pilots = normal_of(seed + 2, origins, count, PILOTS, width).to(self.device)
        return Conditioned(batch, anchors, weigh_classes(self.modality, network, batch, pilots))

    def _classes(self, distribution: Any, label: Tensor) -> list[Mapping[str, float]]:
        if not self.info.classes:
            return [{} for _ in label]
        if self.settings.polish_steps:
            share = torch.stack([(label == k).double().mean(1) for k in range(len(self.info.classes))], 1)
        else:
            share = distribution.class_log_probs.exp()
        return [dict(zip(self.info.classes, (float(v) for v in row), strict=True)) for row in share.cpu()]

    def _trust(
        self, batch: Any, predicted: Tensor, embedding: Tensor, drawn: Drawn, agreement: Tensor
    ) -> list[Trust]:
        chi2 = self.modality.reduced_chi2(batch.to("cpu"), predicted.mean(1))
        distance = self.reference.distance(embedding).cpu() if self.reference else torch.zeros(len(chi2))
        features = {k: v.cpu() for k, v in self.modality.features(batch).items()}
        steps = self._next_steps(batch, chi2, drawn)
        return [
            judge(
                self.card,
                chi2=float(chi2[b]),
                ess=None if drawn.ess is None else float(drawn.ess[b]),
                ood=float(distance[b]) / self.card.thresholds.ood_distance,
                out_of_range=outside(self.card, features, b),
                acceptance=drawn.acceptance[b] if drawn.acceptance else None,
                agreement=float(agreement[b]),
                disagreement=self.modality.disagreement,
                next_step=steps.get(b, ""),
            )
            for b in range(len(chi2))
        ]

    def _next_steps(self, batch: Any, chi2: Tensor, drawn: Drawn) -> dict[int, str]:
        """What to check of the frames that no draw fits, where the modality can say."""
        rows = (~(chi2 <= self.card.thresholds.chi2_alarm)).nonzero()[:, 0]
        if not (rows.numel() and isinstance(self.modality, AdvisesMisfits)):
            return {}
        best, found = drawn.best
        at = rows.to(found.device)
        some, own = batch.at(at).to("cpu"), best.at(at)
        own = Draws(own.label.cpu(), own.theta.cpu(), own.frame.cpu())
        words = self.modality.next_step(some, own, found[at].cpu(), self.sigma_floor)
        return dict(zip(rows.tolist(), words, strict=True))
