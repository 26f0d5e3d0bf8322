"""The training loop: simulate, two losses, average of the weights, checkpoints that resume exactly."""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.modalities import Anchors, Modality
from nfphasing_bluesky.models import load
from nfphasing_bluesky.training import checkpoint
from nfphasing_bluesky.training.losses import PhysicsTerm, data_nll, physics
from nfphasing_bluesky.training.rounds import (
    Labelled,
    Round,
    RoundFrames,
    simulate_round,
    simulate_usable,
)
from nfphasing_bluesky.training.settings import TrainSettings

log = logging.getLogger(__name__)

FEW_PARAMETERS = 16
ROUNDS = "rounds"


@dataclass(frozen=True)
class StepLog:
    """One line of the learning curve: nats for the losses, seconds since the run began."""

    step: int
    seconds: float
    nll: float
    physics_weight: float
    physics_negative_entropy: float
    physics_misfit: float
    physics_negative_log_prior: float
    learning_rate: float
    gradient_norm: float


class Trainer:
    """State of a training run: network, optimiser, averaged weights, step.

    Args:
        modality: what is learnt; its prior is fitted here if it has to be.
        settings: of the run.
        device: where networks and simulation run.
        measured: frames that the physics loss looks at; simulated ones when left out.
    """

    def __init__(
        self, modality: Modality, settings: TrainSettings, device: str = "cpu", measured: Any | None = None
    ) -> None:
        self._measured = measured
        self.modality, self.device = modality, torch.device(device)
        self.settings = settings = _in_float32(settings) if slow_bfloat16(self.device) else settings
        self._round: tuple[int, Round] | None = None
        if settings.physics_weight and not modality.has_log_prior and measured is None:
            raise SettingsError(
                f"physics_weight={settings.physics_weight:g}, expected 0 for {modality.name}: without "
                "log p(theta) simulated frames teach no more than their labels do"
            )
        # nats of images are thousands; the gradient's limit is for a few parameters
        self._unit = max(1.0, modality.width / FEW_PARAMETERS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = modality.network()
            if not settings.start:
                modality.initialise(network, torch.Generator().manual_seed(settings.seed))
            self.network = network.to(self.device)
        self._start = None
        if settings.start:
            self.network.load_state_dict(load(settings.start).part("network"))
        if settings.companions:
            self._check_companions()
            self._start = copy.deepcopy(self.network).eval().requires_grad_(False)
        if settings.only:
            self._freeze_all_but(settings.only)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=1e-4)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.step = 0
        self.seconds = 0.0
        self.skipped = 0
        self._folder: Path | None = None

    def _check_companions(self) -> None:
        if self.settings.start and self.modality.has_log_prior and self.modality.symmetry is None:
            return
        raise SettingsError(
            f"companions={self.settings.companions} for {self.modality.name}, expected 0 without a model to "
            "start from (start=...), whose draws they are, or a modality whose log p(theta) is not known"
        )

    def _freeze_all_but(self, name: str) -> None:
        names = [c.name for c in self.modality.classes]
        if name not in names:
            raise SettingsError(f"only={name!r}, expected one of {', '.join(names)}")
        mine = f"mixture.flows.{names.index(name)}."
        for key, weight in self.network.named_parameters():
            weight.requires_grad_(key.startswith(mine))

    def prepare(self) -> None:
        """Fit the modality's prior, unless it is there already."""
        self.modality.fit_prior(torch.Generator().manual_seed(self.settings.seed + 1))

    def run(
        self,
        folder: Path | None = None,
        report: Callable[[StepLog], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last step, or until `stop()`; checkpoints and the learning curve go to `folder`."""
        began, self._folder = time.perf_counter() - self.seconds, folder
        while self.step < self.settings.steps and not stop():
            line = self._one_step(began)
            if report:
                report(line)
            if folder is not None:
                checkpoint.append_curve(folder, asdict(line))
                if self.step % self.settings.checkpoint_every == 0:
                    checkpoint.save(self, folder)
        if folder is not None:
            checkpoint.save(self, folder)

    def learning_rate(self) -> float:
        """Warm-up, then a cosine down to 1 % of the peak."""
        s = self.settings
        if self.step < s.warmup:
            return s.learning_rate * (self.step + 1) / s.warmup
        done = (self.step - s.warmup) / max(1, s.steps - s.warmup)
        return s.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def physics_weight(self) -> float:
        """Lambda, ramped linearly from 0."""
        s = self.settings
        return 0.0 if s.only else s.physics_weight * min(1.0, self.step / (s.physics_ramp * s.steps))

    def _one_step(self, began: float) -> StepLog:
        rate, weight = self.learning_rate(), self.physics_weight()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        nll, term = self._losses(weight)
        loss = nll if term is None else nll + weight * term.loss
        self.optimiser.zero_grad(set_to_none=True)
        (loss / self._unit).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self._update_average()
        else:
            self.skipped += 1
        self.step += 1
        self.seconds = time.perf_counter() - began
        missing = math.nan
        return StepLog(
            self.step,
            self.seconds,
            float(nll.detach()),
            weight,
            term.negative_entropy if term else missing,
            term.misfit if term else missing,
            term.negative_log_prior if term else missing,
            rate,
            float(norm),
        )

    def _losses(self, weight: float) -> tuple[Tensor, PhysicsTerm | None]:
        s = self.settings
        channels, extra, anchors, draws = self._disturbed(self._labelled())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=s.bfloat16):
            nll = data_nll(self.network(channels, extra, anchors), draws)
        if weight == 0.0 or self.step % s.physics_every:
            return nll, None
        generator = self._generator(2, self.step)
        batch = self._unlabelled(generator)
        with torch.no_grad():
            channels, extra = self.modality.context(batch)
        distribution = self.network(channels, extra, self.modality.anchors(batch))
        return nll, physics(self.modality, distribution, batch, s.physics_draws, generator)

    @torch.no_grad()
    def _unlabelled(self, generator: torch.Generator) -> Any:
        """Frames of which the network learns by what they show alone."""
        count = self.settings.physics_batch
        if self._measured is None:
            return simulate_usable(self.modality, count, generator)[0]
        rows = torch.randint(0, len(self._measured), (count,), generator=generator, device=generator.device)
        return self.modality.parts(self._measured.at(rows), generator)

    def _labelled(self) -> Labelled:
        """Frames of this step: they depend on the seed and the step alone, so a resumed run sees the same."""
        s = self.settings
        index, place = divmod(self.step, s.round_batches * s.reuse)
        if self._round is None or self._round[0] != index:
            generator = self._generator(1, index)
            frames = self._frames(index % s.rounds) if s.rounds else None
            if frames is None:
                frames = simulate_round(self.modality, s, generator, self._start)
            self._round = (index, Round(frames, s, generator))
        return self._round[1].take(place)

    def _frames(self, index: int) -> RoundFrames:
        """Frames of a round that comes again: simulated once."""
        path = None if self._folder is None else self._folder / ROUNDS / f"{index:05d}.safetensors"
        if path is not None and path.exists():
            return RoundFrames.load(path, self.device)
        frames = simulate_round(self.modality, self.settings, self._generator(1, index), self._start)
        if path is not None:
            frames.save(path)
        return frames

    def _disturbed(self, taken: Labelled) -> Labelled:
        """Flip images; add noise to channels, scalars and features of the anchors, where the truth stays."""
        if self.settings.flips:
            taken = _flipped(taken, self._generator(4, self.step))
        spread = self.settings.noise * self.learning_rate() / self.settings.learning_rate
        if spread == 0.0:
            return taken
        generator = self._generator(3, self.step)

        def noisy(values: Tensor) -> Tensor:
            noise = torch.randn(values.shape, generator=generator, device=values.device)
            return values + spread * noise

        anchors = Anchors(len(taken.draws))
        for k in taken.anchors.kinds:
            # where there are several answers, every frame has an anchor for each
            mine = taken.draws.label == k
            rows = (mine if self.modality.symmetry is None else torch.ones_like(mine)).nonzero()[:, 0]
            anchor = taken.anchors.get(k, rows)
            anchors.put(k, rows, replace(anchor, features=noisy(anchor.features)))
        return taken._replace(channels=noisy(taken.channels), extra=noisy(taken.extra), anchors=anchors)

    def _generator(self, stream: int, index: int) -> torch.Generator:
        seed = (self.settings.seed * 4 + stream) * 2**40 + index
        return torch.Generator(device=self.device).manual_seed(seed % 2**63)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        weights = dict(self.network.named_parameters())
        for name, value in self.network.state_dict().items():
            if name in weights:
                self.average[name].lerp_(value, 1 - decay)
            else:
                # bounds and masks, some of them infinite
                self.average[name].copy_(value)


def slow_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is emulated there: on a processor without AVX-512 float32 is six times as quick."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2")


def _in_float32(settings: TrainSettings) -> TrainSettings:
    if settings.bfloat16:
        log.info("float32 instead of bfloat16: this processor is quicker with it")
    return settings.model_copy(update={"bfloat16": False})


def _flipped(taken: Labelled, generator: torch.Generator) -> Labelled:
    """All images of a batch, and their truths, turned and mirrored alike, in one of eight ways."""
    turns, mirrored = divmod(int(torch.randint(8, (1,), generator=generator, device=generator.device)), 2)

    def moved(images: Tensor) -> Tensor:
        turned = images.rot90(turns, (-2, -1))
        return turned.flip(-1) if mirrored else turned

    sides = taken.channels.shape[-2:]
    theta = moved(taken.draws.theta.unflatten(1, (-1, *sides))).flatten(1)
    return taken._replace(channels=moved(taken.channels), draws=replace(taken.draws, theta=theta))
