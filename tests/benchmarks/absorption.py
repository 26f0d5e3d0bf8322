"""Holograms of objects with an absorption of their own: what the intervals of either model hold."""

import numpy as np
import torch
from numpy.typing import NDArray

from nfphasing_bluesky.core import (
    Failure,
    Frame,
    HologramGeometry,
    Origin,
    Posterior,
    ReconstructionSettings,
    Verdict,
)
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities.holography import FRESNEL_NUMBER, PHOTONS, random_phases
from nfphasing_bluesky.modalities.imaging import holograms
from nfphasing_bluesky.models import shipped
from nfphasing_bluesky.physics.holography import exit_wave, hologram
from nfphasing_bluesky.physics.objects import random_objects
from tests.benchmarks.figures import Figure

SIDE, DRAWS, AT_ONCE = 64, 100, 20
MODELS = ("holography", "holography-free")
SHARES = (0.0, 0.01, 0.1)
"""Largest absorptions over the largest phase."""

Images = NDArray[np.floating]


def objects(n: int, share: float, seed: int) -> torch.Tensor:
    """(n, 2, SIDE, SIDE) phases, and absorptions that are other objects'."""
    generator = torch.Generator().manual_seed(seed)
    _, phase, peak = random_phases(n, SIDE, generator)
    other = random_objects(n, (SIDE, SIDE), generator=generator).maps
    return torch.stack([phase.clamp(-2.499, 0.249), share * peak[:, None, None] * other], 1)


def frames_of(u: torch.Tensor, seed: int) -> list[Frame]:
    """Their holograms, of which nobody says that they absorb."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(2, len(u), generator=generator, dtype=torch.float64)
    number, photons = (
        low * (high / low) ** x for (low, high), x in zip((FRESNEL_NUMBER, PHOTONS), chance, strict=True)
    )
    clean = hologram(exit_wave(u[:, 0], u[:, 1]), number)
    image, sigma, mask = holograms.measured(clean, photons.float(), generator)
    return [
        Frame(
            image[i].double().numpy(),
            HologramGeometry(float(number[i])),
            sigma[i].double().numpy(),
            mask[i].numpy(),
            Origin(label=f"hologram {i}", seq_num=i + 1),
        )
        for i in range(len(u))
    ]


def held(posterior: Posterior, truth: Images) -> Images:
    """Share of the pixels of each part of u that the 95 % intervals hold."""
    shown = truth if posterior.mean.ndim == 3 else truth[0]
    low, high = np.quantile(posterior.samples, [0.025, 0.975], axis=0)
    within = (low <= shown) & (shown <= high)
    return within.reshape(-1, SIDE * SIDE).mean(1)


def coverage(model: str, n: int) -> list[Figure]:
    """Shares of phases, and of absorptions, that the 95 % intervals of a model hold, of all and VALID frames.

    Args:
        model: its name, or a folder.
        n: frames of each strength.
    """
    reconstructor = Reconstructor.load(model, "cpu", settings=ReconstructionSettings(n_samples=DRAWS))
    out = []
    for k, share in enumerate(SHARES):
        u = objects(n, share, 100 + k)
        frames, truth = frames_of(u, 200 + k), u.double().numpy()
        found = [p for i in range(0, n, AT_ONCE) for p in reconstructor(frames[i : i + AT_ONCE])]
        good = [(p, t) for p, t in zip(found, truth, strict=True) if not isinstance(p, Failure)]
        shares = np.array([held(p, t) for p, t in good])
        valid = np.array([p.trust.verdict is Verdict.VALID for p, _ in good])
        for part, name in enumerate(("phase", "absorption")[: shares.shape[1]]):
            of_valid = f"{shares[valid, part].mean():.1%}" if valid.any() else "none"
            how = f"{len(good)} frames; of the {int(valid.sum())} VALID ones {of_valid}"
            what = f"{model}: 95 % intervals of the {name}, absorption {share:.0%} of the phase"
            out.append(Figure(what, 100 * float(shares[:, part].mean()), "%", 93.0, "higher", how))
    return out


def own_absorption(n: int) -> list[Figure]:
    """The model that ties absorption to the phase, and the one that does not, where there is one."""
    return [figure for model in MODELS if model in shipped() for figure in coverage(model, n)]
