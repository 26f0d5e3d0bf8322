"""`ptychography`: a frame of a scan with a known probe, far or near field; u = phase and absorption.

The transmission is exp(i phase - mu). The network sees what all frames of the scan say together of the patch,
or, while the scan runs, the frame and its nearest neighbours (`physics.imaging.scan_estimate`), and how many
photons stand behind it. A frame does not tell the phase as a whole: that of the mean transmission under the
light is 0, in every draw. The prior are the random objects of `physics.objects`, under random probes; its
density has no closed form, so there are no importance weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame, Parameter
from nfphasing_bluesky.modalities.draws import ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.imaging import patterns, scan_context, scans, survey
from nfphasing_bluesky.modalities.imaging.image_network import ImageNetworkSettings, ImagePosterior
from nfphasing_bluesky.modalities.imaging.images import Images, transmission_info
from nfphasing_bluesky.modalities.imaging.patterns import PatternBatch
from nfphasing_bluesky.modalities.imaging.scans import PatchDraws
from nfphasing_bluesky.modalities.imaging.tiles import tile_corners
from nfphasing_bluesky.physics import counting
from nfphasing_bluesky.physics.imaging.patches import cut, within
from nfphasing_bluesky.physics.imaging.scan_estimate import gauge

LOWER, UPPER = (-3.2, -0.5), (3.2, 3.5)
LEAST_COUNTS = 0.1
"""Expected photons below which a pixel says nothing about a fit."""

LIT = 0.1
"""Share of the brightest light from which a pixel counts as seen."""

INITIALISED, SETTLED = 64, 512
PIXELS_AT_ONCE = 2**21

PARAMETERS = (
    Parameter("phase_spread_rad", "rad", "standard deviation of the phase under the light"),
    Parameter("mean_transmission", "1", "share of the light that is transmitted"),
)


class Ptychography(Images):
    """The modality."""

    name = "ptychography"
    parameters = PARAMETERS
    neighbours = 12
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 32, "reuse": 5, "round_batches": 8, "warmup": 100, "physics_weight": 0.0}
    )

    def __init__(self, settings: ImageNetworkSettings | None = None) -> None:
        self.settings = settings or ImageNetworkSettings()
        side = self.settings.tile
        self.classes = (ClassSpec("object", ("phase_rad", "absorption"), LOWER, UPPER),)
        self.density_info = transmission_info((side, side), None)

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "Ptychography":
        """Make it from what a card and weights hold."""
        return cls(ImageNetworkSettings(**network) if network else None)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated frames cover."""
        return {
            "photons": scans.PHOTONS,
            "fresnel_number": scans.FRESNEL_NUMBER,
            "masked_share": (0.0, 0.1),
        }

    def latents(self, batch: PatternBatch) -> int:
        """Normal random numbers that a draw takes: two a pixel of the patch."""
        return 2 * batch.channels[0, 0].numel()

    @property
    def width(self) -> int:
        """Phases and absorptions of a tile."""
        return 2 * self.settings.tile**2

    def batch_key(self, frame: Frame) -> tuple[Any, ...]:
        """Frames of one shape, number of modes and kind go together."""
        g = patterns.geometry_of(frame)
        return (frame.intensity.shape, g.probe.shape, g.fresnel_number is None, g.centred)

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> PatchDraws:
        """Parts, as large as a tile, of patches of random objects under random probes.

        `inner` below 1 leaves out the strongest objects.
        """
        tile = self.settings.tile
        conditions = scans.random_conditions(n, tile + tile // 2, generator)
        return scans.random_patches(n, tile, conditions, generator, inner)

    def sample_apart(self, n: int, generator: torch.Generator) -> PatchDraws:
        """Parts of patches, each under a probe and of an object of its own."""
        tile = self.settings.tile
        conditions = scans.random_conditions(n, tile + tile // 2, generator)
        many = scans.random_patches(scans.PATCHES * n, tile, conditions, generator)
        return scans.one_of_each(many, generator)

    def sample_like(
        self, batch: PatternBatch, n: int, generator: torch.Generator, inner: float = 1.0
    ) -> PatchDraws:
        """Patches of random objects under the probe, with the neighbours and the mask of measured frames."""
        rows = torch.randint(0, len(batch), (n,), generator=generator, device=generator.device)
        conditions = patterns.conditions(batch.at(rows))
        return scans.random_patches(n, self.settings.tile, conditions, generator, inner)

    def parts(self, batch: PatternBatch, generator: torch.Generator) -> PatternBatch:
        """A tile of each patch; the surroundings are what the estimate of the group found."""
        if batch.surroundings is not None:
            return batch
        tile = self.settings.tile
        corner = tile_corners(len(batch), batch.channels.shape[-2:], tile, generator)
        channels, light = (cut(v, corner, (tile, tile)) for v in (batch.channels, batch.light))
        around = patterns.estimate(batch)
        return replace(batch, channels=channels, light=light, surroundings=around, corner=corner)

    def simulate(self, draws: Draws, generator: torch.Generator) -> tuple[PatternBatch, Mapping[str, Tensor]]:
        """Measure N patches and their neighbours; also the truth of every parameter."""
        assert isinstance(draws, PatchDraws)  # noqa: S101  a patch without its scan has no frame
        group, scan, rank = scans.measure(draws, generator), draws.scan, draws.rank
        seen = scan_context.context(group, draws.conditions.fresnel_number, scan, rank)
        side = self.settings.tile
        channels, light = (cut(v, draws.corner, (side, side)) for v in (seen.channels, seen.light))
        counts, fresnel = group.counts[scan, rank], draws.conditions.fresnel_number[scan]
        offset, fraction, present = (
            scans.own_first(v[scan], rank) for v in (group.offset, group.fraction, group.present)
        )
        batch = PatternBatch(
            counts,
            group.mask[scan, rank],
            (counts + 1).sqrt(),
            group.probe[scan],
            offset - offset[:, :1],
            fraction,
            present,
            fresnel,
            False,
            torch.full_like(fresnel, torch.nan),
            torch.zeros_like(counts),
            channels,
            seen.extras,
            light,
            draws.patch,
            draws.corner,
        )
        return batch, self.report(draws, {"light": light})

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> PatternBatch:
        """Frames of one key to one batch. Raises FrameError or GeometryError for one that can't be used."""
        return patterns.collate(frames, self.neighbours)

    def survey(self, frames: Sequence[Frame]) -> list[Frame]:
        """Frames of a whole scan, each with what all of them say of its patch."""
        return survey.surveyed(frames, self.batch_key)

    def context(self, batch: PatternBatch) -> tuple[Tensor, Tensor]:
        """Channels (B, C, H, W) and scalars (B, E)."""
        return batch.channels, batch.extras

    def reduced_chi2(self, batch: PatternBatch, predicted: Tensor) -> Tensor:
        """(B,) Pearson's chi-squared of counts over the pixels where photons are expected."""
        return counting.pearson_chi2(batch.intensity, predicted, batch.mask, least=LEAST_COUNTS)

    def forward(self, draws: Draws, batch: PatternBatch) -> Tensor:
        """(N, H, W) expected counts; differentiable in theta."""
        frame = draws.frame
        u = turned_back(self._images(draws, batch), self._whole_phase(draws, batch))
        if batch.surroundings is not None:
            u = within(batch.surroundings[frame], batch.corner[frame], u)
        wave = patterns.transmission(u)
        number, fraction = batch.fresnel_number[frame], batch.fraction[frame, 0]
        light = patterns.expected(wave, batch.probe[frame], fraction, number, batch.centred)
        return light + batch.background[frame]

    def _images(self, draws: Draws, batch: PatternBatch) -> Tensor:
        return draws.theta.unflatten(1, (2, *batch.channels.shape[-2:]))

    def _whole_phase(self, draws: Draws, batch: PatternBatch) -> Tensor:
        """(N,) rad by which draws are turned against the estimate: the phase as a whole, no part of u.

        Of a patch the estimate's is 0; of a part of one it is what its surroundings make it.
        """
        light = batch.light
        wanted = gauge(patterns.transmission(patterns.estimate(batch)), light)
        wave = patterns.transmission(self._images(draws, batch))
        return gauge(wave, light[draws.frame]) - wanted[draws.frame]

    def log_likelihood(self, draws: Draws, batch: PatternBatch) -> Tensor:
        """(N,) Poisson log-likelihood of the draws' frames; differentiable in theta."""
        return self._log_likelihood(self.forward(draws, batch), draws, batch)

    def _log_likelihood(self, predicted: Tensor, draws: Draws, batch: PatternBatch) -> Tensor:
        counts, mask = batch.intensity[draws.frame], batch.mask[draws.frame]
        return counting.poisson_log_likelihood(counts, predicted, mask)

    def evaluate(self, draws: Draws, batch: PatternBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model. Nothing is linear."""
        pixels = batch.intensity[0].numel() * batch.probe.shape[1]
        rows = torch.arange(len(draws), device=draws.theta.device).split(max(1, PIXELS_AT_ONCE // pixels))
        predicted = torch.cat([self.forward(draws.at(some), batch) for some in rows])
        nuisance = {"light": batch.light[draws.frame], "whole_phase": self._whole_phase(draws, batch)}
        return Evaluated(self._log_likelihood(predicted, draws, batch), nuisance, predicted)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, 2, H, W) phase, rad, and absorption."""
        u = draws.theta.unflatten(1, (2, *nuisance["light"].shape[1:]))
        return turned_back(u, nuisance["whole_phase"])

    def density_of(self, batch: PatternBatch, index: int) -> DensityInfo:
        """What u is for one frame, on its own pixels."""
        pixel = float(batch.pixel_size_m[index])
        shape = (batch.channels.shape[-2], batch.channels.shape[-1])
        return transmission_info(shape, None if math.isnan(pixel) else pixel)

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Spread of the phase, rad, and transmitted share of the light."""
        light = nuisance["light"].to(draws.theta)
        weight = light / light.sum((1, 2), keepdim=True).clamp_min(1e-12)
        phase, mu = draws.theta.unflatten(1, (2, *light.shape[1:])).unbind(1)
        mean = (weight * phase).sum((1, 2), keepdim=True)
        return {
            "phase_spread_rad": (weight * (phase - mean).square()).sum((1, 2)).sqrt(),
            "mean_transmission": (weight * torch.exp(-2 * mu)).sum((1, 2)),
        }

    def seen(self, batch: PatternBatch) -> Tensor:
        """(B, H, W) bool: pixels that the frame says something of."""
        return batch.light > LIT * batch.light.amax((1, 2), keepdim=True)

    def features(self, batch: PatternBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        number = batch.fresnel_number
        far = torch.full_like(number, scans.FRESNEL_NUMBER[1])
        return {
            "photons": patterns.illuminated(batch),
            "fresnel_number": torch.where(torch.isfinite(number), number, far),
            "masked_share": batch.mask.float().flatten(1).mean(1),
        }

    def network(self) -> nn.Module:
        """Untrained encoder and flow."""
        return ImagePosterior(
            scan_context.CHANNELS,
            scan_context.EXTRAS,
            LOWER,
            UPPER,
            self.settings,
            scan_context.REFERENCE,
        )

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Start the network's flow from means and scales of simulated frames."""
        draws = self.sample_prior(INITIALISED, generator)
        batch, _ = self.simulate(draws, generator)
        assert isinstance(network, ImagePosterior)  # noqa: S101  made by `network`
        network.initialise(*self.context(batch), self._images(draws, batch))

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:
        """Fit the whitening of the flow's noise to fresh frames."""
        assert isinstance(network, ImagePosterior)  # noqa: S101  made by `network`

        def frames() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for _ in range(SETTLED // INITIALISED):
                draws = self.sample_prior(INITIALISED, generator)
                batch, _ = self.simulate(draws, generator)
                yield *self.context(batch), self._images(draws, batch)

        network.settle(frames())


def turned_back(u: Tensor, angle: Tensor) -> Tensor:
    """(N, 2, H, W) phase and absorption, the phase less an angle (N,), rad."""
    return torch.stack([u[:, 0] - angle[:, None, None], u[:, 1]], 1)
