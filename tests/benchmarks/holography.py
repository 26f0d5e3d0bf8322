"""Holograms: the posterior mean against hotopy's CTF and Tikhonov reconstructions."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nfphasing_bluesky.core import Origin
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.imaging.holograms import HologramBatch, median_sigma
from nfphasing_bluesky.training.rounds import simulate_usable
from tests.benchmarks.figures import Figure

DRAWS = 32
LEVELS = tuple((low, high) for low in (1e-3, 0.01, 0.03, 0.1) for high in (0.05, 0.2, 0.5))
"""Regularisations tried, low and high frequencies; the best ones lie inside."""

TIKHONOV_STEPS = 50
THIRDS = ("least noise", "middle", "most noise")

Images = NDArray[np.floating]
Method = Callable[[HologramBatch, int, tuple[float, float]], Images]


class Simulated(NamedTuple):
    """Whole holograms, their true phases (n, H, W), and the third of the noise range each belongs to (n,)."""

    batch: HologramBatch
    phase: Images
    third: NDArray[np.integer]


def simulate(reconstructor: Reconstructor, n: int, seed: int) -> Simulated:
    """Fresh holograms with nothing around them."""
    generator = torch.Generator().manual_seed(seed)
    batch, draws, _ = simulate_usable(reconstructor.modality, 2 * n, generator)
    # every second one is a frame of its own, the others are cut from larger ones
    whole = torch.arange(0, 2 * n, 2)
    batch = batch.at(whole)
    shape = (n, *batch.intensity.shape[1:])
    noise = median_sigma(batch).log().numpy()
    low, high = np.log(100.0**-0.5), np.log(1e5**-0.5)
    third = np.clip((3 * (noise - high) / (low - high)).astype(int), 0, 2)
    return Simulated(batch, draws.theta[whole].reshape(shape).double().numpy(), third)


def ctf(batch: HologramBatch, i: int, level: tuple[float, float]) -> Images:
    """hotopy's linear reconstruction, padded with the empty beam to twice the size."""
    from hotopy.holo import CTF

    image, pad = _padded(batch, i)
    method = CTF(image.shape, alpha=level, dtype=torch.float64, **_optics(batch, i))
    return method(image).numpy()[pad:-pad, pad:-pad]


def tikhonov(batch: HologramBatch, i: int, level: tuple[float, float]) -> Images:
    """hotopy's non-linear reconstruction with the constraint that matter has a phase below 0."""
    from hotopy.holo import Constraints, Tikhonov

    image, pad = _padded(batch, i)
    method = Tikhonov(image.shape, alpha=level, dtype=torch.float64, **_optics(batch, i))
    found = method(image, constraints=Constraints(phase_max=0.0), max_iter=TIKHONOV_STEPS)
    return np.asarray(found)[pad:-pad, pad:-pad]


def _optics(batch: HologramBatch, i: int) -> dict[str, float]:
    geometry = batch.geometry
    return {
        "fresnel_nums": float(geometry.fresnel_number[i]),
        "betadelta": float(geometry.beta_over_delta[i]),
    }


def _padded(batch: HologramBatch, i: int) -> tuple[Images, int]:
    image = torch.where(batch.mask[i], 1.0, batch.intensity[i]).double().numpy()
    pad = image.shape[0] // 2
    return np.pad(image, pad, constant_values=1.0), pad


def posterior_means(reconstructor: Reconstructor, batch: HologramBatch) -> tuple[Images, Images]:
    """(n, H, W) means of the draws and (n,) reduced chi-squared."""
    found = []
    for rows in torch.arange(len(batch)).split(16):
        origins = [Origin(seq_num=int(i)) for i in rows]
        found += reconstructor.reconstruct(batch.at(rows), origins, DRAWS)
    return np.stack([p.mean for p in found]), np.array([p.trust.reduced_chi2 for p in found])


def errors(found: Iterable[Images], truth: Images) -> Images:
    """Root mean square error over the truth's root mean square, (n,)."""
    return np.array([np.linalg.norm(f - t) / np.linalg.norm(t) for f, t in zip(found, truth, strict=True)])


def best_levels(method: Method, tuned: Simulated, levels: Sequence[tuple[float, float]]) -> list:
    """The regularisation with the smallest median error, for each third of the noise range."""
    table = np.array(
        [
            errors([method(tuned.batch, i, level) for i in range(len(tuned.third))], tuned.phase)
            for level in levels
        ]
    )
    return [levels[int(np.median(table[:, tuned.third == k], axis=1).argmin())] for k in range(3)]


def against_hotopy(model: str, n: int, tuned_on: int) -> list[Figure]:
    """Median errors of the posterior mean over those of CTF and Tikhonov, by noise; target: below 1."""
    reconstructor = Reconstructor.load(model, "cpu")
    tuned, test = simulate(reconstructor, tuned_on, 11), simulate(reconstructor, n, 12)
    means, chi2 = posterior_means(reconstructor, test.batch)
    ours = errors(means, test.phase)
    out = []
    for name, method in (("CTF", ctf), ("Tikhonov", tikhonov)):
        chosen = best_levels(method, tuned, LEVELS)
        theirs = errors(
            [method(test.batch, i, chosen[test.third[i]]) for i in range(len(test.third))], test.phase
        )
        for k, third in enumerate(THIRDS):
            here = test.third == k
            ratio = float(np.median(ours[here]) / np.median(theirs[here]))
            how = (
                f"{int(here.sum())} holograms: NRMSE {np.median(ours[here]):.3f} against "
                f"{np.median(theirs[here]):.3f} (alpha {chosen[k][0]:g}, {chosen[k][1]:g}); better on "
                f"{np.mean(ours[here] < theirs[here]):.0%}"
            )
            out.append(Figure(f"{model}: error over hotopy's {name}, {third}", ratio, "", 1.0, "lower", how))
    out.append(
        Figure(f"{model}: reduced chi-squared", float(np.median(chi2)), "", 1.1, "lower", f"median of {n}")
    )
    return out
