"""`holography-free`: the holograms of `holography`, of objects whose absorption goes its own way.

u = phase, rad, and absorption mu, the negative logarithm of the amplitude, of the transmission
exp(i phase - mu). The prior are the same random objects; what absorbs in them are pure phases, one material,
two, many, another object, or a smooth field (`physics.objects.absorbing_maps`).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from nfphasing_bluesky.core import DensityInfo, Frame, HologramGeometry, Parameter, Posterior
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.holography import (
    GRAIN,
    PARAMETERS,
    Holography,
    kth_smallest,
    random_phases,
    within_bounds,
)
from nfphasing_bluesky.modalities.imaging.holograms import FREE, Hologram, HologramBatch
from nfphasing_bluesky.modalities.imaging.images import transmission_info
from nfphasing_bluesky.modalities.imaging.smooth_parts import hardly_shown
from nfphasing_bluesky.physics.objects import Absorbing, absorbing_maps, free_phase_and_absorption
from nfphasing_bluesky.physics.objects.draws import each, log_uniform, normal

log = logging.getLogger(__name__)

ABSORPTION_OVER_PHASE = (1e-3, 0.5)
"""Of the largest values of both."""

LEAST_GRAIN = 0.05
"""White noise on the absorption is that of an absorption of at least so much of the phase: no sample is as
transparent as nothing."""


class FreeHolography(Holography):
    """The modality."""

    name = "holography-free"
    parameters = (
        *PARAMETERS,
        Parameter("mean_transmission", "1", "share of the light that is transmitted"),
        Parameter("strongest_absorption", "1", "absorption that a hundredth of the pixels exceeds"),
    )
    optics = FREE

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated frames cover."""
        return {name: bounds for name, bounds in super().ranges.items() if name != "beta_over_delta"}

    def features(self, batch: HologramBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return {name: value for name, value in super().features(batch).items() if name in self.ranges}

    def doubt(self, frame: Frame, posterior: Posterior, sigma_floor: float) -> str:
        """As of a pure phase: what absorbs is free, and says nothing of the phase."""
        assert isinstance(frame.geometry, HologramGeometry)  # noqa: S101  `collate` takes no others
        return hardly_shown(posterior.mean[0], frame.geometry, 0.0)

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> HologramBatch:
        """Frames of one shape to one batch; a beta / delta that they say is not used, and the log says so."""
        for frame in frames:
            if isinstance(frame.geometry, HologramGeometry) and frame.geometry.beta_over_delta > 0:
                _say_unused(frame.geometry.beta_over_delta)
        return super().collate(frames, sigma_floor)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, 2, H, W) phase, rad, and absorption."""
        rows, columns = (int(v) for v in nuisance["shape"][0])
        return draws.theta.unflatten(1, (2, rows, columns))

    def _info(self, shape: tuple[int, int], pixel_m: float | None, wavelength: bool) -> DensityInfo:
        return transmission_info(shape, pixel_m)

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the phase, transmitted share of the light, and strongest absorption by a quantile."""
        pixels = draws.theta.shape[1] // 2
        phase, absorption = draws.theta.split(pixels, 1)
        weakest = pixels + 1 - max(1, pixels // 100)
        return super().report(Draws(draws.label, phase, draws.frame), nuisance) | {
            "mean_transmission": torch.exp(-2 * absorption).mean(1),
            "strongest_absorption": kth_smallest(absorption, weakest),
        }

    def _random_objects(self, n: int, side: int, generator: torch.Generator, inner: float) -> Tensor:
        maps, phase, peak = random_phases(n, side, generator, inner)
        absorbing, kind = absorbing_maps(maps, generator)
        strongest = peak * log_uniform(generator, (n,), *ABSORPTION_OVER_PHASE) * (kind != Absorbing.NOTHING)
        _, absorption = free_phase_and_absorption(maps, absorbing, peak, strongest)
        grain = GRAIN * each(strongest.hypot(LEAST_GRAIN * peak)) * normal(generator, (n, side, side))
        return within_bounds(torch.stack([phase, absorption + grain], 1), self.optics)

    def _random_geometry(self, n: int, generator: torch.Generator) -> Hologram:
        """Fresnel numbers log-uniform."""
        made = super()._random_geometry(n, generator)
        return Hologram(
            made.fresnel_number,
            torch.zeros_like(made.fresnel_number),
            made.wavelength_angstrom,
            made.pixel_size_m,
        )


@lru_cache(maxsize=64)
def _say_unused(ratio: float) -> None:
    """Once a process for each value."""
    log.warning(
        "beta_over_delta=%.4g is not used: holography-free finds the absorption on its own; the model "
        "holography holds it to the phase by that ratio",
        ratio,
    )
