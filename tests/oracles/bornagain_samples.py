"""The same grazing-incidence samples for BornAgain and for us, and what makes it compute the same thing.

BornAgain 25 differs by default, each for a cause:
- it replaces the layer around particles by an average with their material; switched off here,
- it takes the roughness in Nevot-Croce factors from waves up to a cutoff, 0.5/nm unless told otherwise; the
  cutoff is put out of reach here,
- pixels of its SphericalDetector of nominal angle a lie at arctan(a), and their solid angles follow,
- a radial paracrystal of distance D holds 2 / (3^(1/2) D^2) particles per area, those of a hexagonal lattice,
- the domain size of a radial paracrystal is without effect in 25.0.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nfphasing_bluesky.physics.gisaxs import GrazingSample, scattered
from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
from nfphasing_bluesky.physics.grazing.dwba_roughness import Roughness
from nfphasing_bluesky.physics.grazing.form_factors import Bodies, Shape, whole_spheres
from nfphasing_bluesky.physics.grazing.grazing import GrazingPixels, angular_pixels
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.particles.size_distribution import log_normal
from nfphasing_bluesky.physics.reflectivity import Stack, from_refractive_index

WAVELENGTH_NM, INCIDENCE_DEG = 0.14, 0.4
COLOUR = (0.5, 0.5, 0.5)
NO_CUTOFF_PER_NM = 1e12


def double(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float64))


@dataclass(frozen=True)
class Angles:
    """Nominal angles of a square detector, degrees."""

    pixels: int = 24
    exit_deg: tuple[float, float] = (0.0, 2.0)
    azimuth_deg: tuple[float, float] = (-1.4, 1.6)

    def nominal(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres of rows and columns, rad."""
        share = (np.arange(self.pixels) + 0.5) / self.pixels
        lows, highs = zip(self.exit_deg, self.azimuth_deg, strict=True)
        rows, columns = (low + share * (high - low) for low, high in zip(lows, highs, strict=True))
        return np.radians(rows), np.radians(columns)

    def ours(self, dtype: torch.dtype = torch.float64) -> GrazingPixels:
        rows, columns = (double(np.arctan(angle)) for angle in self.nominal())
        return angular_pixels(10 * WAVELENGTH_NM, math.radians(INCIDENCE_DEG), rows, columns, dtype)

    def beam_share(self) -> np.ndarray:
        """(H, W) solid angle over sin(incidence)."""
        rows, columns = self.nominal()
        area = (rows[1] - rows[0]) * (columns[1] - columns[0]) / math.sin(math.radians(INCIDENCE_DEG))
        return area * np.cos(np.arctan(rows))[:, None] ** 3 * np.cos(np.arctan(columns)) ** 3

    def specular(self) -> np.ndarray:
        """(H, W) bool: the pixel in which the reflected beam lies."""
        rows, columns = self.nominal()
        at = np.zeros((self.pixels, self.pixels), bool)
        at[np.abs(rows - math.radians(INCIDENCE_DEG)).argmin(), np.abs(columns).argmin()] = True
        return at


@dataclass(frozen=True)
class Media:
    """(delta, beta) from the medium of the beam to the substrate, and thicknesses, nm."""

    optical: np.ndarray
    thickness_nm: np.ndarray

    def stack(self, sigma_nm: np.ndarray) -> Stack:
        delta, beta = double(self.optical).T
        density, absorption = from_refractive_index(delta, beta, 10 * WAVELENGTH_NM)
        lengths = (double(10 * v)[None] for v in (self.thickness_nm, sigma_nm))
        return Stack(density[None], absorption[None], *lengths)

    def layers(self, ba: Any, roughness: list[Any] | None = None) -> list[Any]:
        """BornAgain's layers; `roughness` is that of each interface."""
        last = len(self.optical) - 1
        made = []
        for i, (delta, beta) in enumerate(self.optical):
            arguments = [ba.RefractiveMaterial(str(i), COLOUR, float(delta), float(beta))]
            if 0 < i < last:
                arguments.append(float(self.thickness_nm[i - 1]))
            if i and roughness is not None:
                arguments.append(roughness[i - 1])
            made.append(ba.Layer(*arguments))
        return made


def bornagain_pattern(ba: Any, layers: list[Any], angles: Angles) -> np.ndarray:
    """(H, W) share of the beam in each pixel."""
    sample = ba.Sample()
    for layer in layers:
        sample.addLayer(layer)
    bounds = np.radians([angles.azimuth_deg, angles.exit_deg])
    detector = ba.SphericalDetector(angles.pixels, *bounds[0], angles.pixels, *bounds[1])
    beam = ba.Beam(1.0, WAVELENGTH_NM, math.radians(INCIDENCE_DEG))
    simulation = ba.ScatteringSimulation(beam, sample, detector)
    simulation.options().setNumberOfThreads(1)
    simulation.options().setUseAvgMaterials(False)
    return simulation.simulate().intensities()


def our_pattern(sample: GrazingSample, angles: Angles, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return scattered(sample, angles.ours(dtype))[0].double().numpy() * angles.beam_share()


@dataclass(frozen=True)
class RoughStack:
    """Interfaces of random shape between random layers."""

    media: Media
    sigma_nm: np.ndarray
    hurst: np.ndarray
    lateral_nm: np.ndarray
    vertical_nm: float

    def ours(self) -> GrazingSample:
        lateral = double(10 * self.lateral_nm)[None]
        shape = Roughness(double(self.hurst)[None], lateral, double([10 * self.vertical_nm]))
        return GrazingSample(self.media.stack(self.sigma_nm), shape)

    def layers(self, ba: Any, cutoff: float = NO_CUTOFF_PER_NM) -> list[Any]:
        follow = ba.CommonDepthCrosscorrelation(self.vertical_nm) if self.vertical_nm else None
        columns = zip(self.sigma_nm, self.hurst, self.lateral_nm, strict=True)
        shapes = [ba.SelfAffineFractalModel(*map(float, row), cutoff) for row in columns]
        return self.media.layers(ba, [ba.Roughness(shape, ba.ErfTransient(), follow) for shape in shapes])


def random_media(rng: np.random.Generator, layers: int, least_nm: float = 3.0) -> Media:
    delta = rng.uniform(2e-6, 2e-5, layers + 1)
    optical = np.stack([delta, delta * rng.uniform(2e-3, 0.1, layers + 1)], 1)
    return Media(np.vstack([[0.0, 0.0], optical]), rng.uniform(least_nm, least_nm + 27, layers))


def random_rough_stack(seed: int) -> RoughStack:
    """0 to 12 layers; every third without vertical correlation."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(0, 13))
    interfaces = layers + 1
    return RoughStack(
        media=random_media(rng, layers),
        sigma_nm=rng.uniform(0.1, 1.5, interfaces),
        hurst=rng.uniform(0.2, 0.95, interfaces),
        lateral_nm=np.exp(rng.uniform(np.log(5), np.log(300), interfaces)),
        vertical_nm=0.0 if seed % 3 == 0 else float(rng.uniform(5, 300)),
    )


ORDERS = ("dilute", "chain", "radial", "coupled")
SIZES = 9


@dataclass(frozen=True)
class Islands:
    """Particles of log-normal sizes on a film or in it."""

    media: Media
    layer: int
    shape: Shape
    radius_nm: np.ndarray
    share: np.ndarray
    aspect: float
    side_rad: float
    optical: tuple[float, float]
    order: str
    distance_nm: float
    disorder_nm: float
    damping_nm: float
    chain_rad: float
    coupling: float

    @property
    def height_nm(self) -> np.ndarray:
        return self.aspect * self.radius_nm

    def bodies(self) -> Bodies:
        radius, height = (double(10 * v)[None] for v in (self.radius_nm, self.height_nm))
        if self.shape is Shape.SPHERE:
            return whole_spheres(radius)
        side = torch.full_like(radius, self.side_rad) if self.shape is Shape.CONE else None
        return Bodies(self.shape, radius, height, side)

    @property
    def number_per_nm2(self) -> float:
        hexagonal = 2 / (math.sqrt(3) * self.distance_nm**2)
        return {"dilute": 1e-3, "chain": 0.02 / self.distance_nm}.get(self.order, hexagonal)

    def paracrystal(self) -> Paracrystal | None:
        if self.order == "dilute":
            return None
        lengths = (double([10 * v]) for v in (self.distance_nm, self.disorder_nm, self.damping_nm))
        chain = double([self.chain_rad]) if self.order == "chain" else None
        coupling = double([self.coupling]) if self.order == "coupled" else None
        return Paracrystal(*lengths, chain_rad=chain, coupling=coupling)

    def ours(self) -> GrazingSample:
        stack = self.media.stack(np.zeros(len(self.media.optical) - 1))
        density, absorption = from_refractive_index(*double(self.optical), 10 * WAVELENGTH_NM)
        particles = Particles(
            bodies=self.bodies(),
            share=double(self.share)[None],
            density=density[None],
            absorption=absorption[None],
            number=double([self.number_per_nm2 / 100]),
            layer=self.layer,
            base=double([10 * self.media.thickness_nm[self.layer - 1] if self.layer else 0.0]),
            order=self.paracrystal(),
        )
        return GrazingSample(stack, particles=(particles,))

    def layers(self, ba: Any) -> list[Any]:
        mixture = ba.Mixture()
        material = ba.RefractiveMaterial("particle", COLOUR, *self.optical)
        for radius, height, share in zip(self.radius_nm, self.height_nm, self.share, strict=True):
            mixture.addParticle(ba.Particle(material, self._shape(ba, radius, height)), float(share))
        layers = self.media.layers(ba)
        layers[self.layer].deposit2D(self._structure(ba, mixture))
        return layers

    def _shape(self, ba: Any, radius: float, height: float) -> Any:
        if self.shape is Shape.SPHERE:
            return ba.Sphere(radius)
        if self.shape is Shape.SPHEROID:
            return ba.Spheroid(radius, height / 2)
        if self.shape is Shape.TRUNCATED_SPHERE:
            return ba.SphericalSegment(radius, 0.0, 2 * radius - height)
        if self.shape is Shape.CYLINDER:
            return ba.Cylinder(radius, height)
        return ba.Cone(radius, height, self.side_rad)

    def _structure(self, ba: Any, mixture: Any) -> Any:
        if self.order == "dilute":
            return ba.Dilute2D(self.number_per_nm2, mixture)
        if self.order == "chain":
            made = ba.Paracrystal1D(mixture, self.distance_nm, self.chain_rad, 0.02, self.damping_nm)
        else:
            made = ba.RadialParacrystal(mixture, self.distance_nm, self.damping_nm)
        if self.order == "coupled":
            made.setKappa(self.coupling)
        made.setProbabilityDistribution(ba.Profile1DGauss(self.disorder_nm))
        return made


def random_islands(shape: Shape, seed: int) -> Islands:
    """Orders in turn; half of them in a film, half on it; every fifth of one size."""
    rng = np.random.default_rng(seed)
    count = 1 if seed % 5 == 0 else SIZES
    sizes = log_normal(double([rng.uniform(2.5, 6)]), double([rng.uniform(0.05, 0.3)]), count, reach=2.0)
    radius = sizes.values[0].numpy()
    side = float(rng.uniform(0.8, 1.4))
    aspect = {Shape.SPHERE: 2.0, Shape.CONE: rng.uniform(0.5, 1.0) * math.tan(side)}.get(
        shape, rng.uniform(0.6, 1.8)
    )
    distance = rng.uniform(3, 7) * radius.max()
    delta = rng.uniform(1e-5, 5e-5)
    return Islands(
        media=random_media(rng, int(rng.integers(1, 4)), least_nm=1.05 * aspect * radius.max()),
        layer=seed % 2,
        shape=shape,
        radius_nm=radius,
        share=sizes.share[0].numpy(),
        aspect=float(aspect),
        side_rad=side,
        optical=(float(delta), float(delta * rng.uniform(0.02, 0.15))),
        order=ORDERS[(seed // 2) % len(ORDERS)],
        distance_nm=float(distance),
        disorder_nm=float(distance * rng.uniform(0.1, 0.35)),
        damping_nm=float(rng.uniform(100, 2000)),
        chain_rad=float(rng.uniform(0, 2 * math.pi)),
        coupling=float(rng.uniform(0.2, 2.5)),
    )
