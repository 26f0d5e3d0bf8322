"""A flat detector behind a sample in grazing incidence: where its pixels look, and what it counts.

The detector is upright to the direct beam, or tilted up to the reflected one; the sample's surface is turned
by the incidence angle, so that a wrong angle moves the horizon too. With b the angle of the detector's normal
over the surface, a pixel at (x across, y up) from where the normal through the sample meets it sees

    r k_f / k = (L cos(b) - y sin(b), x, L sin(b) + y cos(b)),   r = (L^2 + x^2 + y^2)^(1/2),

in coordinates of the surface, L the distance. Rows are not quite lines of one exit angle: r grows
along them. They are blended from levels, the rows as they are straight over the direct beam, by cubics: good
to 1e-4 but for two rows next to a critical angle, which is a kink (10 % at 9 degrees from the plane of
incidence, 1 % at 3).

Dimension letters: N samples, H rows, W columns.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from nfphasing_bluesky.physics.gisaxs import GrazingSample, scattered
from nfphasing_bluesky.physics.grazing.grazing import Blend, GrazingPixels, wave_number

_STRAIGHT = 0.01
"""Rows off their level by less than that part of a pixel are taken as straight."""


@dataclass(frozen=True)
class GrazingDetector:
    """H rows of W pixels, row 0 below.

    Args:
        wavelength_m: of the beam.
        distance_m: from the sample to the detector, along the detector's normal.
        pixel_size_m: height and width of a pixel.
        normal_px: row and column where the normal through the sample meets it, in pixels from the outer
            corner of pixel [0, 0]: of the direct beam for a detector upright to it.
        shape: (H, W).
        normal_rad: angle of the normal over the direct beam; twice the incidence angle for a detector upright
            to the reflected beam.
    """

    wavelength_m: float
    distance_m: float
    pixel_size_m: tuple[float, float]
    normal_px: tuple[float, float]
    shape: tuple[int, int]
    normal_rad: float = 0.0

    def __post_init__(self) -> None:
        for name in ("wavelength_m", "distance_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}, expected a positive length in metres")
        if min(self.pixel_size_m) <= 0 or min(self.shape) < 1:
            raise ValueError(
                f"pixel_size_m is {self.pixel_size_m} and shape {self.shape}, expected positive numbers"
            )

    def cropped(self, rows: slice, columns: slice) -> "GrazingDetector":
        """Return the part of it that slices without steps cut out."""
        top, bottom, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1])
        normal = self.normal_px[0] - top, self.normal_px[1] - left
        return replace(self, normal_px=normal, shape=(bottom - top, right - left))

    def binned(self, rows: int, columns: int) -> "GrazingDetector":
        """Return it with blocks of pixels taken together; what does not fill a block is cut off."""
        return replace(
            self,
            pixel_size_m=(self.pixel_size_m[0] * rows, self.pixel_size_m[1] * columns),
            normal_px=(self.normal_px[0] / rows, self.normal_px[1] / columns),
            shape=(self.shape[0] // rows, self.shape[1] // columns),
        )

    def offsets_m(self) -> tuple[Tensor, Tensor]:
        """Heights (H,) over the normal and distances (W,) across it, of the pixels' middles, m."""
        up, across = (
            (torch.arange(n, dtype=torch.float64) + 0.5 - normal) * size
            for n, normal, size in zip(self.shape, self.normal_px, self.pixel_size_m, strict=True)
        )
        return up, across

    def row_of(self, exit_rad: float, incidence_rad: float) -> float:
        """Row, from the lower edge, at which an exit angle is seen straight over the direct beam.

        The direct beam is at minus the incidence angle, the horizon at 0, the reflected beam at the incidence
        angle.
        """
        up = self.distance_m * math.tan(exit_rad + incidence_rad - self.normal_rad)
        return self.normal_px[0] + up / self.pixel_size_m[0]


def detector_pixels(
    detector: GrazingDetector, incidence_rad: Tensor | float, dtype: torch.dtype = torch.float32
) -> GrazingPixels:
    """Where the pixels look for incidence angles (N,), or one of all; differentiable in them."""
    incidence = torch.as_tensor(incidence_rad, dtype=torch.float64).reshape(-1)
    up, across = (v.to(incidence.device) for v in detector.offsets_m())
    normal = (detector.normal_rad - incidence)[:, None, None]
    x, y, distance = across, up[:, None], detector.distance_m
    r = (distance**2 + x.square() + y.square()).sqrt()
    k = wave_number(1e10 * detector.wavelength_m)
    along = k * ((distance * normal.cos() - y * normal.sin()) / r - incidence.cos()[:, None, None])
    sine = (distance * normal.sin() + y * normal.cos()) / r
    solid = math.prod(detector.pixel_size_m) * distance / r**3
    level, blend = _levels(detector, normal[:, :, 0], up, sine.detach())
    if blend is not None:
        blend = Blend(blend.first, blend.weights.to(dtype))
    return GrazingPixels(
        wavelength_angstrom=1e10 * detector.wavelength_m,
        incidence_rad=incidence,
        level_rad=level,
        q_plane=(along, (k * x / r).expand_as(along)),
        exit_sine=sine.detach(),
        solid_angle=solid[None],
        blend=blend,
        dtype=dtype,
    )


def _levels(
    detector: GrazingDetector, normal: Tensor, up: Tensor, sine: Tensor
) -> tuple[Tensor, Blend | None]:
    """Exit angles (N, A) of levels, and how (H, W) pixels lie between them, for mean normals (N, 1)."""
    middle = normal.detach().mean()
    distance, height = detector.distance_m, detector.pixel_size_m[0]
    straight = distance * torch.tan(torch.asin(sine.mean(0).clamp_min(0)) - middle)
    # rows below the horizon are dark: what they are blended from does not matter
    shift = torch.where(sine.mean(0) > 0, (straight - up[:, None]) / height, 0.0)
    lowest, highest = float(shift.min()), float(shift.max())
    if max(-lowest, highest) < _STRAIGHT:
        return torch.atan(up / distance) + normal, None
    below, above = math.floor(lowest) - 1, math.floor(highest) + 2
    rows = torch.arange(below, len(up) + above, dtype=torch.float64, device=up.device)
    level = torch.atan((up[0] + rows * height) / distance) + normal
    weights = torch.stack([_cubic(shift - t) for t in range(below, above + 1)])
    return level, Blend(0, weights)


def _cubic(distance: Tensor) -> Tensor:
    """Weight of a level in the cubic through the four nearest, by the distance from it, in levels."""
    x = distance.abs()
    near = (1 - x.square()) * (1 - 0.5 * x)
    far = (1 - x) * (2 - x) * (3 - x) / 6
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


@dataclass(frozen=True)
class Exposure:
    """How N samples were exposed.

    Args:
        photons: (N,) that the beam brought onto the sample.
        background: (N,) counts of a pixel that do not come from the sample's surface.
    """

    photons: Tensor
    background: Tensor


def expected_counts(sample: GrazingSample, pixels: GrazingPixels, exposure: Exposure) -> Tensor:
    """(N, H, W) mean counts of pixels that nothing hides."""
    share = pixels.solid_angle / pixels.incidence_rad.sin()[:, None, None]
    photons = exposure.photons[:, None, None] * share
    return photons.to(pixels.dtype) * scattered(sample, pixels) + exposure.background[:, None, None].to(
        pixels.dtype
    )


def blurred(pattern: Tensor, sigma_px: tuple[float, float]) -> Tensor:
    """(N, H, W) pattern seen with a Gaussian resolution (row, column) in pixels, each integrated over pixels.

    Beyond its edges the pattern goes on as at the edge.
    """
    for axis, sigma in zip((1, 2), sigma_px, strict=True):
        reach = max(1, math.ceil(4 * sigma))
        edges = torch.arange(-reach, reach + 2, dtype=torch.float64, device=pattern.device) - 0.5
        share = torch.special.ndtr(edges / max(sigma, 1e-9)).diff()
        kernel = (share / share.sum()).to(pattern)
        lines = pattern.movedim(axis, -1)
        padded = torch.nn.functional.pad(lines, (reach, reach), mode="replicate")
        pattern = (padded.unfold(-1, len(kernel), 1) @ kernel).movedim(-1, axis)
    return pattern


def counted(expected: Tensor, generator: Generator) -> Tensor:
    """Counts (N, H, W) drawn from their means."""
    return torch.poisson(expected, generator=generator)


def rectangle(shape: tuple[int, int], rows: tuple[float, float], columns: tuple[float, float]) -> Tensor:
    """(H, W) bool: pixels that a stop from one row and column to another covers, wholly or in part."""
    inside = []
    for n, (low, high) in zip(shape, (rows, columns), strict=True):
        edge = torch.arange(n, dtype=torch.float64)
        inside.append((edge + 1 > low) & (edge < high))
    return inside[0][:, None] & inside[1]


def module_gaps(shape: tuple[int, int], module: tuple[int, int], gap: tuple[int, int]) -> Tensor:
    """(H, W) bool: pixels in the gaps between modules of (rows, columns), the first module at [0, 0].

    Those of a Pilatus are (195, 487) with gaps of (17, 7).
    """
    across = [torch.arange(n) % (m + g) >= m for n, m, g in zip(shape, module, gap, strict=True)]
    return across[0][:, None] | across[1]


def specular_stop(
    detector: GrazingDetector, incidence_rad: float, size_px: tuple[float, float], *, to_direct: bool = True
) -> Tensor:
    """(H, W) bool: a stop (height, width) around the reflected beam, and down over the direct one."""
    row = detector.row_of(incidence_rad, incidence_rad)
    column = detector.normal_px[1]
    low = min(row, detector.row_of(-incidence_rad, incidence_rad)) if to_direct else row
    rows = low - 0.5 * size_px[0], row + 0.5 * size_px[0]
    return rectangle(detector.shape, rows, (column - 0.5 * size_px[1], column + 0.5 * size_px[1]))
