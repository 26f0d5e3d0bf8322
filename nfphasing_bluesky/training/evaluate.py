"""The certificate: a model measured on fresh simulated frames, through the code that users run."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nfphasing_bluesky.core import Origin, Posterior
from nfphasing_bluesky.modalities import Draws, Modality, SharesScans
from nfphasing_bluesky.models import Card
from nfphasing_bluesky.training.calibration import (
    LEVELS,
    calibrate,
    hardware,
    information,
    pooled,
    spread_out,
    tarp,
)
from nfphasing_bluesky.training.pixel_calibration import PixelCalibration
from nfphasing_bluesky.training.rounds import simulate_usable

CHUNK = 20
PRIOR_DRAWS = 200
MIN_CLASS_DRAWS = 100
FloatArray = NDArray[np.floating]


class Runner(Protocol):
    """What the certificate needs of a Reconstructor."""

    modality: Modality
    card: Card

    def condition(self, batch: Any, origins: Sequence[Origin], seed: int) -> Any:
        """What `reconstruct` starts from; its `distribution` gives log densities of draws."""
        ...

    def reconstruct(
        self,
        batch: Any,
        origins: Sequence[Origin],
        n_samples: int | None = None,
        seed: int | None = None,
        *,
        conditioned: Any = None,
    ) -> list[Posterior]:
        """Posteriors of a batch."""
        ...


class Evaluation:
    """What was measured: truths and draws of every parameter, and the trust figures of every frame."""

    def __init__(self) -> None:
        self.truth: dict[str, list[FloatArray]] = {}
        self.draws: dict[str, list[FloatArray]] = {}
        self.label: list[int] = []
        self.classes: list[dict[str, float]] = []
        self.gain: list[float] = []
        self.chi2: list[float] = []
        self.ess: list[float] = []
        self.ood: list[float] = []
        self.valid: list[bool] = []
        self.seconds: list[float] = []
        self.pixels: dict[str, PixelCalibration] = {}
        self.information: dict[str, list[float]] = {}

    def add(
        self,
        posterior: Posterior,
        truth: dict[str, float],
        label: int,
        gain: float,
        image: tuple[FloatArray, NDArray[np.bool_]] | None = None,
        prior: Mapping[str, FloatArray] = MappingProxyType({}),
    ) -> None:
        """Take in one frame.

        Args:
            posterior: of the frame.
            truth: of every parameter.
            label: true class.
            gain: nats of the truth over the prior.
            image: the true density, where that is one, and the pixels seen.
            prior: draws of every parameter before the measurement, in the true class; empty for none.
        """
        if image is not None:
            self._add_image(posterior, *image)
        same_class = posterior.labels == label if posterior.labels.size else np.True_
        for name, draws in posterior.parameters.items():
            self.truth.setdefault(name, []).append(np.array(truth[name]))
            self.draws.setdefault(name, []).append(np.where(same_class, draws, np.nan).astype(np.float64))
            if name in prior:
                known = information(self.draws[name][-1], prior[name])
                self.information.setdefault(name, []).append(known)
        self.label.append(label)
        self.classes.append(dict(posterior.classes))
        self.gain.append(gain)
        self.chi2.append(posterior.trust.reduced_chi2)
        self.ess.append(math.nan if posterior.trust.ess_fraction is None else posterior.trust.ess_fraction)
        self.ood.append(posterior.trust.ood_score)
        self.valid.append(posterior.trust.verdict.value == "VALID")
        self.seconds.append(posterior.latency_s)

    def _add_image(self, posterior: Posterior, truth: FloatArray, seen: NDArray[np.bool_]) -> None:
        """One image, or one for each part of a density that has several; '' names the only one."""
        names = posterior.density.axes[0].labels if truth.ndim > seen.ndim else ("",)
        parts, draws = truth.reshape(-1, *seen.shape), posterior.samples
        draws = draws.reshape(len(draws), -1, *seen.shape)
        for i, name in enumerate(names):
            self.pixels.setdefault(name, PixelCalibration()).add(parts[i], draws[:, i], seen)


def run(
    runner: Runner,
    frames: int = 2000,
    n_samples: int = 500,
    seed: int = 20_000_000,
    report: Callable[[int], None] = lambda done: None,
    sample: Callable[[int, torch.Generator], Draws] | None = None,
) -> Evaluation:
    """Simulate fresh frames and reconstruct them, `CHUNK` at a time.

    Args:
        runner: a Reconstructor.
        frames: how many.
        n_samples: draws of each.
        seed: of objects, noise and draws.
        report: is told how many are done.
        sample: draws the objects; the modality's prior when left out, no two of one scan.
    """
    generator = torch.Generator().manual_seed(seed)
    if sample is None and isinstance(runner.modality, SharesScans):
        sample = runner.modality.sample_apart
    out = Evaluation()
    while len(out.label) < frames:
        batch, draws, truth = simulate_usable(runner.modality, CHUNK, generator, sample)
        done = len(out.label)
        origins = [Origin(seq_num=done + i) for i in range(len(draws))]
        conditioned = runner.condition(batch, origins, seed)
        posteriors = runner.reconstruct(batch, origins, n_samples, seed, conditioned=conditioned)
        gain = conditioned.distribution.log_prob(draws)
        if runner.modality.has_log_prior:
            gain = gain - runner.modality.log_prior(draws)
        prior = _prior_draws(runner.modality, batch, draws, seed + done)
        images = _true_images(runner.modality, draws, batch)
        for i, posterior in enumerate(posteriors[: frames - done]):
            truths = {name: float(values[i]) for name, values in truth.items()}
            image = None if images is None else (images[0][i], images[1][i])
            before = {name: values[i] for name, values in prior.items()}
            out.add(posterior, truths, int(draws.label[i]), float(gain[i]), image, before)
        report(len(out.label))
    return out


def _prior_draws(modality: Modality, batch: Any, draws: Draws, seed: int) -> dict[str, FloatArray]:
    """(B, M) values of every parameter before the measurement, in each frame's own class.

    Empty for images, and for modalities whose prior is not known.
    """
    if len(modality.density_info.axes) > 1 or not modality.has_log_prior:
        return {}
    generator = torch.Generator().manual_seed(seed)
    many = modality.sample_prior(2 * PRIOR_DRAWS * len(modality.classes), generator)
    of_class = {int(k): (many.label == k).nonzero()[:PRIOR_DRAWS, 0] for k in draws.label.unique()}
    rows = torch.cat([of_class[int(k)] for k in draws.label])
    frame = torch.arange(len(draws)).repeat_interleave(PRIOR_DRAWS)
    chosen = Draws(many.label[rows], many.theta[rows], frame)
    values = modality.report(chosen, modality.evaluate(chosen, batch).nuisance)
    return {name: v.view(len(draws), PRIOR_DRAWS).double().numpy() for name, v in values.items()}


def _true_images(modality: Modality, draws: Draws, batch: Any) -> tuple[FloatArray, NDArray[np.bool_]] | None:
    """(B, ..., H, W) simulated densities and (B, H, W) pixels seen, where the density is an image."""
    if len(modality.density_info.axes) < 2:
        return None
    density = modality.density(draws, modality.evaluate(draws, batch).nuisance).double()
    return density.numpy(), modality.seen(batch).numpy()


def certificate(evaluation: Evaluation, modality: Modality, settings: dict[str, Any]) -> dict[str, Any]:
    """Figures of a model card. Those of a class are over its own frames, and the draws in that class.

    Given its class, a posterior must be calibrated on the frames of that class; draws of other classes that
    happen to share a parameter's name say nothing about it.
    """
    truth = {k: np.array(v) for k, v in evaluation.truth.items()}
    draws = {k: np.stack(v) for k, v in evaluation.draws.items()}
    label = np.array(evaluation.label)
    figures: dict[str, Any] = {
        "frames": len(label),
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%d"),
        "settings": settings,
        **_information(evaluation, modality),
        "reduced_chi2_median": float(np.median(evaluation.chi2)),
        "reduced_chi2_q99": float(np.quantile(evaluation.chi2, 0.99)),
        "share_valid": float(np.mean(evaluation.valid)),
        "milliseconds_per_frame": 1e3 * float(np.median(evaluation.seconds)),
    }
    parts = []
    figures["classes"] = {}
    for k, spec in enumerate(modality.classes):
        mine = label == k
        of_class = _class_figures(evaluation, truth, draws, mine)
        parts += [calibrate(truth[n][mine], _enough(draws[n][mine])) for n in of_class["parameters"]]
        if len(modality.classes) > 1:
            confidence = np.array([c[spec.name] for c, m in zip(evaluation.classes, mine, strict=True) if m])
            of_class["probability_of_true_class_median"] = float(np.median(confidence))
        figures["classes"][spec.name] = of_class
    figures |= pooled(parts)
    figures["of_valid"] = _of_valid(evaluation, modality, truth, draws, label)
    if evaluation.pixels:
        of_parts = {name: part.figures() for name, part in evaluation.pixels.items()}
        figures["pixels"] = of_parts.get("", of_parts)
    figures["worst_tarp_deviation"] = max(c["tarp_deviation"] for c in figures["classes"].values())
    if len(modality.classes) > 1:
        figures["class_accuracy"] = _accuracy(evaluation, modality)
    return figures


def _information(evaluation: Evaluation, modality: Modality) -> dict[str, float]:
    """What the posterior knows of the truth: over the prior, or as a density where that has none."""
    gain = np.array(evaluation.gain)
    if modality.has_log_prior:
        return {
            "information_gain_nats": float(np.mean(gain)),
            "information_gain_nats_median": float(np.median(gain)),
        }
    return {"bits_per_dimension": float(-np.mean(gain) / (math.log(2) * modality.width))}


def _of_valid(
    evaluation: Evaluation,
    modality: Modality,
    truth: dict[str, FloatArray],
    draws: dict[str, FloatArray],
    label: FloatArray,
) -> dict[str, float]:
    """Pooled calibration of the frames called VALID; the verdict looks at the frame, never at the truth."""
    valid = np.array(evaluation.valid)
    parts = [
        calibrate(truth[n][mine], _enough(draws[n][mine]))
        for k in range(len(modality.classes))
        for n in truth
        if (mine := valid & (label == k)).sum() > 0 and np.isfinite(truth[n][mine]).any()
    ]
    parts = [p for p in parts if p.n > 0]
    return dict(pooled(parts)) if parts else {}


def _class_figures(
    evaluation: Evaluation, truth: dict[str, FloatArray], draws: dict[str, FloatArray], mine: FloatArray
) -> dict[str, Any]:
    present = [n for n in truth if np.isfinite(truth[n][mine]).any()]
    parameters: dict[str, dict[str, float]] = {
        n: asdict(calibrate(truth[n][mine], _enough(draws[n][mine]))) for n in present
    }
    for name in set(present) & set(evaluation.information):
        known = np.array(evaluation.information[name])[mine]
        if np.isfinite(known).any():
            parameters[name]["information_nats"] = float(np.nanmedian(known))
    return {
        "frames": int(mine.sum()),
        "parameters": parameters,
        "tarp_deviation": _tarp_deviation(truth, draws, mine, present),
    } | _effective(evaluation, mine)


def _effective(evaluation: Evaluation, mine: FloatArray) -> dict[str, float]:
    """Effective sample sizes, where there are importance weights."""
    ess = np.array(evaluation.ess)[mine]
    if np.isnan(ess).all():
        return {}
    return {"ess_fraction_median": float(np.median(ess)), "ess_fraction_q10": float(np.quantile(ess, 0.1))}


def _enough(draws: FloatArray) -> FloatArray:
    """Leave out frames with so few draws of the class that ranks would be coarse.

    How many there are depends on the frame alone, so this selects frames and not truths: calibration
    within the rest is untouched.
    """
    few = np.isfinite(draws).sum(1) < MIN_CLASS_DRAWS
    return np.where(few[:, None], np.nan, draws)


def _tarp_deviation(
    truth: dict[str, FloatArray], draws: dict[str, FloatArray], mine: FloatArray, names: Sequence[str]
) -> float:
    """Largest deviation of expected coverage from level, coordinates mapped to their truths' ranks."""
    t = np.stack([truth[n][mine] for n in names], axis=1)
    d = np.stack([draws[n][mine] for n in names], axis=2)
    kept = np.isfinite(d).all(2)
    good = kept.sum(1) >= MIN_CLASS_DRAWS
    if good.sum() < 2:
        return math.nan
    t, d, kept = t[good], d[good], kept[good]
    size = int(kept.sum(1).min())
    d = np.stack([spread_out(row[k], size) for row, k in zip(d, kept, strict=True)])
    for j in range(t.shape[1]):
        order = np.sort(t[:, j])
        places = np.linspace(0, 1, len(order))
        t[:, j], d[..., j] = np.interp(t[:, j], order, places), np.interp(d[..., j], order, places)
    _, expected = tarp(t, d)
    return float(np.max(np.abs(expected - LEVELS)))


def _accuracy(evaluation: Evaluation, modality: Modality) -> float:
    names = [c.name for c in modality.classes]
    best = [max(range(len(names)), key=lambda k: c[names[k]]) for c in evaluation.classes]
    return float(np.mean(np.array(best) == np.array(evaluation.label)))
