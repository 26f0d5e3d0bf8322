"""`holography`: single-distance near field; u = the phase of one material, or its projected electron density.

The object shifts the phase by phi <= 0 and damps the amplitude by exp((beta / delta) phi), with beta / delta
known (0 for a pure phase object). The prior are the random objects of `physics.objects`, a hundredth of white
noise on them; its density has no closed form, so there are no importance weights: the reduced chi-squared and
the distance from the training set say how far to trust a frame.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nfphasing_bluesky.core import DensityInfo, Frame, HologramGeometry, ModelError, Parameter, Posterior
from nfphasing_bluesky.flows.image import WaveletFlowSettings
from nfphasing_bluesky.modalities.batches import gaussian_chi2
from nfphasing_bluesky.modalities.draws import ClassSpec, Draws, Evaluated
from nfphasing_bluesky.modalities.imaging import holograms
from nfphasing_bluesky.modalities.imaging.holograms import TIED, Hologram, HologramBatch, Optics
from nfphasing_bluesky.modalities.imaging.image_network import ImageNetworkSettings, ImagePosterior
from nfphasing_bluesky.modalities.imaging.images import Images, pixel_axes
from nfphasing_bluesky.modalities.imaging.smooth_parts import hardly_shown
from nfphasing_bluesky.modalities.imaging.tiles import tile_corners
from nfphasing_bluesky.physics.holography import projected_density
from nfphasing_bluesky.physics.imaging.patches import cut, within
from nfphasing_bluesky.physics.objects import random_objects

FRESNEL_NUMBER = (1e-3, 0.1)
BETA_OVER_DELTA = (1e-3, 0.1)
PHOTONS = (100.0, 1e5)
PEAK_PHASE_RAD = (0.03, 2.0)
GRAIN = 0.01
"""Standard deviation of white noise on the phase, over its peak: no sample is a picture."""

INITIALISED, SETTLED, SETTLED_AT_ONCE = 128, 3072, 64
PIXELS_AT_ONCE = 2**21
CANVAS = 2
"""Sides of the frames that training tiles are cut from, in tiles."""

PARAMETERS = (
    Parameter("mean_phase_rad", "rad", "mean phase"),
    Parameter("strongest_phase_rad", "rad", "phase that a hundredth of the pixels exceeds"),
    Parameter("phase_spread_rad", "rad", "standard deviation of the phase over the pixels"),
)


@dataclass(frozen=True)
class TileDraws(Draws):
    """Tiles of larger objects.

    Args:
        surroundings: (N, C, H', W') u of the larger objects.
        corner: (N, 2) row and column of the tile.
        whole: (N,) bool, True where there is nothing around the tile and the frame ends with it.
    """

    surroundings: Tensor
    corner: Tensor
    whole: Tensor


class Holography(Images):
    """The modality; others see holograms of another u by other `optics`."""

    name = "holography"
    parameters: tuple[Parameter, ...] = PARAMETERS
    optics = TIED
    training: Mapping[str, Any] = MappingProxyType(
        {"batch": 32, "reuse": 2, "round_batches": 8, "warmup": 100, "physics_weight": 0.0, "bfloat16": True}
    )

    def __init__(self, settings: ImageNetworkSettings | None = None) -> None:
        self.settings = settings or ImageNetworkSettings(flow=WaveletFlowSettings(offset=True, referred=True))
        side = self.settings.tile
        optics = self.optics
        self.classes = (ClassSpec("object", optics.parts, optics.lower, optics.upper),)
        self.density_info = self._info((side, side), None, False)

    @classmethod
    def build(cls, network: Mapping[str, Any], state: Mapping[str, Tensor]) -> "Holography":
        """Make it from what a card and weights hold.

        Raises:
            ModelError: they are older than smooth phases, which the network would take for something else.
        """
        made = cls(ImageNetworkSettings(**network) if network else None)
        if not made.settings.flow.referred:
            raise ModelError(
                f"a model of {cls.name} whose flow follows no smooth phase (referred=false), expected one "
                "that does: it was trained on other channels than holograms have now; train it again"
            )
        return made

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Feature -> range that the simulated frames cover."""
        return {
            "fresnel_number": FRESNEL_NUMBER,
            "beta_over_delta": (0.0, BETA_OVER_DELTA[1]),
            "sigma": (0.7 * PHOTONS[1] ** -0.5, 2.0 * PHOTONS[0] ** -0.5),
            "masked_share": (0.0, 0.12),
        }

    def latents(self, batch: HologramBatch) -> int:
        """Normal random numbers that a draw takes: as many as pixels, of each part."""
        return len(self.optics.parts) * batch.intensity[0].numel()

    @property
    def width(self) -> int:
        """Pixels of a tile, of each part."""
        return len(self.optics.parts) * self.settings.tile**2

    def batch_key(self, frame: Frame) -> tuple[int, ...]:
        """Frames of one shape go together."""
        return frame.intensity.shape

    def sample_prior(self, n: int, generator: torch.Generator, inner: float = 1.0) -> Draws:
        """Tiles of random objects: half of them whole frames, half cut from frames of twice the side.

        `inner` below 1 leaves out the strongest phases.
        """
        side, device = self.settings.tile, generator.device
        large = CANVAS * side
        u = torch.zeros(n, len(self.optics.parts), large, large, device=device)
        margin = (large - side) // 2
        corner = torch.full((n, 2), margin, device=device)
        whole = torch.arange(n, device=device) % 2 == 0
        inside = slice(margin, margin + side)
        u[whole, :, inside, inside] = self._random_objects(int(whole.sum()), side, generator, inner)
        u[~whole] = self._random_objects(int((~whole).sum()), large, generator, inner)
        # on the grid that tiles of a frame lie on
        places = torch.randint(0, (large - side) // 8 + 1, (n, 2), generator=generator, device=device) * 8
        corner = torch.where(whole[:, None], corner, places)
        theta = cut(u, corner, (side, side)).flatten(1)
        label = torch.zeros(n, dtype=torch.long, device=device)
        return TileDraws(label, theta, torch.arange(n, device=device), u, corner, whole)

    def _random_objects(self, n: int, side: int, generator: torch.Generator, inner: float) -> Tensor:
        """(n, C, side, side) u of random objects."""
        phase = random_phases(n, side, generator, inner)[1]
        return within_bounds(phase[:, None], self.optics)

    def _random_geometry(self, n: int, generator: torch.Generator) -> Hologram:
        """Fresnel numbers log-uniform; half of the objects are pure phase."""
        u = torch.rand(3, n, generator=generator, device=generator.device, dtype=torch.float64)
        number = FRESNEL_NUMBER[0] * (FRESNEL_NUMBER[1] / FRESNEL_NUMBER[0]) ** u[0]
        ratio = BETA_OVER_DELTA[0] * (BETA_OVER_DELTA[1] / BETA_OVER_DELTA[0]) ** u[1]
        unknown = torch.full_like(number, torch.nan)
        return Hologram(number, torch.where(u[2] < 0.5, 0.0, ratio), unknown, unknown)

    def sample_like(
        self, batch: HologramBatch, n: int, generator: torch.Generator, inner: float = 1.0
    ) -> Draws:
        """Objects of the prior: Fresnel numbers and noise are drawn, and a network has to know them all."""
        return self.sample_prior(n, generator, inner)

    def parts(self, batch: HologramBatch, generator: torch.Generator) -> HologramBatch:
        """A tile of each frame; the surroundings are what the smooth estimate shows."""
        if batch.surroundings is not None:
            return batch
        corner = tile_corners(len(batch), batch.intensity.shape[1:], self.settings.tile, generator)
        shape = (self.settings.tile, self.settings.tile)
        image, sigma, mask, channels = (
            cut(v, corner, shape) for v in (batch.intensity, batch.sigma, batch.mask, batch.channels)
        )
        around = self.optics.estimate(batch)
        return replace(
            batch,
            intensity=image,
            sigma=sigma,
            mask=mask,
            channels=channels,
            surroundings=around,
            corner=corner,
        )

    def simulate(
        self, draws: Draws, generator: torch.Generator
    ) -> tuple[HologramBatch, Mapping[str, Tensor]]:
        """Measure N objects; also the truth of every parameter. Plain draws have nothing around them."""
        n, side, device = len(draws), self.settings.tile, generator.device
        tiles = draws if isinstance(draws, TileDraws) else _alone(draws, side)
        geometry = self._random_geometry(n, generator)
        clean = holograms.expected(tiles.surroundings, geometry)
        photons = PHOTONS[0] * (PHOTONS[1] / PHOTONS[0]) ** torch.rand(n, generator=generator, device=device)
        measured = holograms.measured(clean, photons, generator)
        channels, log_scale = self.optics.context(*measured, geometry)
        shape = (side, side)
        image, sigma, mask, channels = (cut(v, tiles.corner, shape) for v in (*measured, channels))
        # of these, nothing but the tile was seen
        own = tiles.whole.nonzero()[:, 0]
        channels[own], log_scale[own] = self.optics.context(
            image[own], sigma[own], mask[own], geometry.at(own)
        )
        batch = HologramBatch(
            image, sigma, mask, geometry, channels, log_scale, tiles.surroundings, tiles.corner
        )
        return batch, self.report(draws, {})

    def collate(self, frames: Sequence[Frame], sigma_floor: float) -> HologramBatch:
        """Frames of one shape to one batch. Raises FrameError or GeometryError for one that can't be used."""
        return holograms.collate(frames, sigma_floor, self.optics)

    def context(self, batch: HologramBatch) -> tuple[Tensor, Tensor]:
        """Channels (B, C, H, W) and scalars (B, E)."""
        return batch.channels, self.optics.scalars(batch)

    def reduced_chi2(self, batch: HologramBatch, predicted: Tensor) -> Tensor:
        """(B,) mean squared residual over sigma."""
        return gaussian_chi2(batch, predicted)

    def forward(self, draws: Draws, batch: HologramBatch) -> Tensor:
        """(N, H, W) expected holograms; differentiable in theta."""
        shape = (batch.intensity.shape[1], batch.intensity.shape[2])
        u = draws.theta.unflatten(1, (-1, *shape))
        geometry = batch.geometry.at(draws.frame)
        if batch.surroundings is None:
            return holograms.expected(u, geometry)
        corner = batch.corner[draws.frame]
        whole = within(batch.surroundings[draws.frame], corner, u)
        return cut(holograms.expected(whole, geometry), corner, shape)

    def log_likelihood(self, draws: Draws, batch: HologramBatch) -> Tensor:
        """(N,) -chi^2 / 2 of the draws' holograms; differentiable in theta."""
        return self._log_likelihood(self.forward(draws, batch), draws, batch)

    def _log_likelihood(self, predicted: Tensor, draws: Draws, batch: HologramBatch) -> Tensor:
        root = torch.where(batch.mask, 0.0, batch.sigma.reciprocal())[draws.frame]
        pull = (batch.intensity[draws.frame] - predicted) * root
        return -0.5 * pull.square().flatten(1).sum(1)

    def evaluate(self, draws: Draws, batch: HologramBatch, noise: Tensor | None = None) -> Evaluated:
        """Run draws through the forward model. Nothing is linear."""
        pixels = (
            batch.intensity[0].numel() if batch.surroundings is None else batch.surroundings[0, 0].numel()
        )
        rows = torch.arange(len(draws), device=draws.theta.device).split(max(1, PIXELS_AT_ONCE // pixels))
        predicted = torch.cat([self.forward(draws.at(some), batch) for some in rows])
        wavelength = batch.geometry.wavelength_angstrom[draws.frame]
        shape = draws.theta.new_tensor(batch.intensity.shape[1:], dtype=torch.long).expand(len(draws), 2)
        nuisance = {"wavelength_angstrom": wavelength, "shape": shape}
        return Evaluated(self._log_likelihood(predicted, draws, batch), nuisance, predicted)

    def density(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> Tensor:
        """(N, H, W) phase, rad; where the wavelength is known projected electron density, e/angstrom^2."""
        rows, columns = (int(v) for v in nuisance["shape"][0])
        phase = draws.theta.view(-1, rows, columns)
        wavelength = nuisance["wavelength_angstrom"].to(phase)
        known = torch.isfinite(wavelength)
        electrons = projected_density(torch.ones_like(phase[:, :1, :1]), wavelength)
        return phase * torch.where(known[:, None, None], electrons, 1.0)

    def density_of(self, batch: HologramBatch, index: int) -> DensityInfo:
        """What u is for one frame, on its own pixels."""
        shape = (batch.intensity.shape[1], batch.intensity.shape[2])
        known = bool(torch.isfinite(batch.geometry.wavelength_angstrom[index]))
        pixel = float(batch.geometry.pixel_size_m[index])
        return self._info(shape, None if math.isnan(pixel) else pixel, known)

    def _info(self, shape: tuple[int, int], pixel_m: float | None, wavelength: bool) -> DensityInfo:
        axes = pixel_axes(shape, pixel_m)
        if wavelength:
            return DensityInfo("projected electron density", "e/angstrom^2", axes)
        return DensityInfo("phase", "rad", axes)

    def report(self, draws: Draws, nuisance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean, strongest (by a quantile: an extreme is made of noise) and spread of the phase, rad."""
        strongest = max(1, draws.theta.shape[1] // 100)
        return {
            "mean_phase_rad": draws.theta.mean(1),
            "strongest_phase_rad": kth_smallest(draws.theta, strongest),
            "phase_spread_rad": draws.theta.std(1),
        }

    def seen(self, batch: HologramBatch) -> Tensor:
        """(B, H, W) bool: all."""
        return torch.ones_like(batch.mask)

    def doubt(self, frame: Frame, posterior: Posterior, sigma_floor: float) -> str:
        """What of large smooth parts the hologram hardly shows, where there are such."""
        assert isinstance(frame.geometry, HologramGeometry)  # noqa: S101  `collate` takes no others
        return hardly_shown(posterior.mean, frame.geometry, frame.geometry.beta_over_delta)

    def features(self, batch: HologramBatch) -> Mapping[str, Tensor]:
        """Name -> (B,) properties that `ranges` bounds."""
        return {
            "fresnel_number": batch.geometry.fresnel_number,
            "beta_over_delta": batch.geometry.beta_over_delta,
            "sigma": holograms.median_sigma(batch),
            "masked_share": batch.mask.float().flatten(1).mean(1),
        }

    def network(self) -> nn.Module:
        """Untrained encoder and flow."""
        o = self.optics
        return ImagePosterior(o.channels, o.extras, o.lower, o.upper, self.settings, o.reference)

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Start the network's flow from means and scales of simulated frames."""
        draws = self.sample_prior(INITIALISED, generator)
        batch, _ = self.simulate(draws, generator)
        assert isinstance(network, ImagePosterior)  # noqa: S101  made by `network`
        side = self.settings.tile
        network.initialise(*self.context(batch), draws.theta.unflatten(1, (-1, side, side)))

    def settle(self, network: nn.Module, generator: torch.Generator) -> None:
        """Fit the flow's noise to fresh frames."""
        assert isinstance(network, ImagePosterior)  # noqa: S101  made by `network`
        side = self.settings.tile

        def frames() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for _ in range(SETTLED // SETTLED_AT_ONCE):
                draws = self.sample_prior(SETTLED_AT_ONCE, generator)
                batch, _ = self.simulate(draws, generator)
                yield *self.context(batch), draws.theta.unflatten(1, (-1, side, side))

        network.settle(frames())


def random_phases(
    n: int, side: int, generator: torch.Generator, inner: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Thickness maps (n, side, side) of random objects, their phases, rad, and largest phase shifts (n,)."""
    device = generator.device
    low, high = PEAK_PHASE_RAD
    peak = low * (inner * high / low) ** torch.rand(n, 1, 1, generator=generator, device=device)
    maps = random_objects(n, (side, side), generator=generator).maps
    grain = GRAIN * torch.randn(n, side, side, generator=generator, device=device)
    return maps, -peak * (maps + grain), peak[:, 0, 0]


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """(N,) k-th smallest of each row of (N, P), few long ones at a time: torch makes copies of them."""
    rows = values.split(max(1, PIXELS_AT_ONCE // values.shape[1]))
    return torch.cat([some.kthvalue(k, 1).values for some in rows])


def within_bounds(u: Tensor, optics: Optics) -> Tensor:
    """Objects (n, C, H, W) whose grain does not reach the bounds."""
    low, high = (u.new_tensor(bounds)[:, None, None] for bounds in (optics.lower, optics.upper))
    return torch.minimum(torch.maximum(u, low + 1e-3), high - 1e-3)


def _alone(draws: Draws, side: int) -> TileDraws:
    u = draws.theta.unflatten(1, (-1, side, side))
    corner = torch.zeros(len(draws), 2, dtype=torch.long, device=u.device)
    return TileDraws(draws.label, draws.theta, draws.frame, u, corner, corner[:, 0] == 0)
