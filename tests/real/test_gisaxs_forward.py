"""The forward model on gold spheres that BornAgain simulated and silver particles measured at GALAXI."""

import gzip
import json
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from fabio.tifimage import TifImage

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.physics.gisaxs import GrazingSample, scattered
from nfphasing_bluesky.physics.grazing.dwba_particles import Particles
from nfphasing_bluesky.physics.grazing.form_factors import whole_spheres
from nfphasing_bluesky.physics.grazing.gisaxs_cuts import check_horizon, in_plane_cut, out_of_plane_cut
from nfphasing_bluesky.physics.grazing.gisaxs_detector import (
    Exposure,
    GrazingDetector,
    detector_pixels,
    expected_counts,
    rectangle,
)
from nfphasing_bluesky.physics.grazing.grazing import angular_pixels
from nfphasing_bluesky.physics.grazing.lateral_order import Paracrystal
from nfphasing_bluesky.physics.particles.size_distribution import log_normal
from nfphasing_bluesky.physics.reflectivity import Stack, from_refractive_index


def double(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float64))


def hexagonal(distance: float) -> float:
    """Particles per area of a hexagonal lattice."""
    return 2 / math.sqrt(3) / distance**2


class Gold(NamedTuple):
    counts: np.ndarray
    theirs: np.ndarray
    background: float
    mean: np.ndarray


@pytest.fixture(scope="module")
def gold(shared_data) -> Gold:
    """Spheres of one size on silicon in a radial paracrystal, damped over 1 um.

    The file lists 200 angles from edge to edge; patterns are those of the middles of 200 bins, at their
    arctangents.
    """
    folder = shared_data / "gisaxs/sim_bornagain_au_spheres"
    file = np.load(folder / "au_spheres_radial_paracrystal.npz")
    truth = json.loads((folder / "truth.json").read_text())
    wavelength, incidence = 10 * truth["wavelength_nm"], math.radians(truth["alpha_i_deg"])
    share = (np.arange(200) + 0.5) / 200
    edges = np.radians([file["alpha_f_deg"][[0, -1]], file["phi_f_deg"][[0, -1]]])
    exits, azimuths = (double(np.arctan(low + share * (high - low))) for low, high in edges)
    pixels = angular_pixels(wavelength, incidence, exits, azimuths, torch.float64)
    media = [(0.0, 0.0)] + [tuple(truth[name].values()) for name in ("substrate", "sphere_material")]
    density, absorption = from_refractive_index(*double(media).T, wavelength)
    stack = Stack(density[None, :2], absorption[None, :2], double(np.zeros((1, 0))), double([[0.0]]))
    distance = 10 * truth["paracrystal_peak_distance_nm"]
    spheres = Particles(
        bodies=whole_spheres(double([[10 * truth["sphere_radius_nm"]]])),
        share=double([[1.0]]),
        density=density[2:],
        absorption=absorption[2:],
        number=double([truth["surface_density_per_nm2"] / 100]),
        layer=0,
        base=double([0.0]),
        order=Paracrystal(
            double([distance]), double([10 * truth["paracrystal_gauss_width_nm"]]), double([1e4])
        ),
    )
    exposure = Exposure(double([truth["beam_intensity"]]), double([0.0]))
    mean = expected_counts(GrazingSample(stack, particles=(spheres,)), pixels, exposure)[0].numpy()
    return Gold(file["counts"], file["intensity_noisefree"], truth["background_per_pixel"], mean)


def test_gold_spheres_as_bornagain_computes_them(gold):
    ratio = np.log(gold.mean / gold.theirs)
    assert ratio.std() < 1e-4 and abs(ratio.mean()) < 1e-3


def test_gold_spheres_as_they_were_counted(gold):
    mean = gold.mean + gold.background
    chi2 = np.mean((gold.counts - mean) ** 2 / mean)
    assert chi2 == pytest.approx(1.0, abs=0.03)


PIXEL_M = 0.172e-3
INCIDENCE = math.radians(0.463)
WAVELENGTH = 1.34
SILVER, SILICON = (2.24749529e-5, 1.61528396e-6), (5.78164736e-6, 1.02294578e-7)
PTFE, HMDSO = (5.20508729e-6, 1.96944292e-8), (2.0888308e-6, 1.32605651e-8)


class Galaxi(NamedTuple):
    """Region of the published fit, row 0 below; 3 x 3 pixels together, those hidden or at q = 0 left out.

    `around` is the frame from below the horizon to the top of the region, with its own detector.
    """

    detector: GrazingDetector
    whole: np.ndarray
    mean: np.ndarray
    used: np.ndarray
    around: tuple[np.ndarray, GrazingDetector]


@pytest.fixture(scope="module")
def galaxi(shared_data, tmp_path_factory) -> Galaxi:
    """The region and the beam stop of the published fit, which gives them in mm."""
    packed = (shared_data / "gisaxs/galaxi_ag_nanoparticles/galaxi_data.tif.gz").read_bytes()
    unpacked = tmp_path_factory.mktemp("galaxi") / "galaxi.tif"
    unpacked.write_bytes(gzip.decompress(packed))
    frame = TifImage().read(str(unpacked)).data[::-1].astype(np.float64)
    detector = GrazingDetector(WAVELENGTH * 1e-10, 1.73, (PIXEL_M, PIXEL_M), (323.4, 597.1), frame.shape)
    rows, columns = slice(406, 534), slice(494, 697)
    stop = rectangle(frame.shape, (477.3, 495.3), (592.4, 602.9)).numpy()
    seen = ~stop & (frame >= 0)
    # interfaces that follow one another scatter around q_y = 0, and the published model has none of that
    seen[:, 593:602] = False
    region = detector.cropped(rows, columns).binned(3, 3)
    height, width = region.shape

    def blocks(values: np.ndarray) -> np.ndarray:
        part = values[rows, columns][: 3 * height, : 3 * width]
        return part.reshape(height, 3, width, 3).sum((1, 3))

    pixels = blocks(seen.astype(float))
    mean = blocks(np.where(seen, frame, 0.0)) / np.maximum(pixels, 1)
    wider = slice(340, 534), slice(494, 580)
    return Galaxi(region, frame[rows, columns], mean, pixels > 0, (frame[wider], detector.cropped(*wider)))


def silver(
    region: GrazingDetector,
    *,
    radius: float,
    spread: float,
    distance: float,
    disorder: float,
    coupling: float,
    film: tuple[float, float] = HMDSO,
    thickness: tuple[float, float] = (185.0, 221.0),
    roughness: tuple[float, float] = (11.0, 23.0),
) -> np.ndarray:
    """(H, W) pattern of silver spheres on the bottom of a film, in angstrom; larger ones do not fit in."""
    media = double([(0.0, 0.0), film, PTFE, SILICON, SILVER])
    density, absorption = from_refractive_index(*media.T, WAVELENGTH)
    stack = Stack(density[None, :4], absorption[None, :4], double([thickness]), double([[*roughness, 0.0]]))
    sizes = log_normal(double([radius]), double([spread]), 30, reach=2.0)
    fits = sizes.values < thickness[0] / 2
    share = torch.where(fits, sizes.share, 0.0)
    particles = Particles(
        bodies=whole_spheres(torch.where(fits, sizes.values, 10.0)),
        share=share / share.sum(),
        density=density[4:],
        absorption=absorption[4:],
        number=double([hexagonal(distance)]),
        layer=1,
        base=double([thickness[0]]),
        order=Paracrystal(double([distance]), double([disorder]), double([1e7]), coupling=double([coupling])),
    )
    pixels = detector_pixels(region, INCIDENCE, torch.float64)
    return scattered(GrazingSample(stack, particles=(particles,)), pixels)[0].numpy()


def scaled(galaxi: Galaxi, pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of a pattern with the scale and the background that suit it best, and of what was measured."""
    measured = np.log(np.maximum(galaxi.mean[galaxi.used], 0.3))
    pattern = pattern[galaxi.used]
    ratio = np.exp(measured.mean()) / pattern.mean()
    best = min(
        (
            np.log(scale * ratio * pattern + background)
            for scale in np.geomspace(0.2, 5, 60)
            for background in np.geomspace(1.0, 20.0, 30)
        ),
        key=lambda model: float(np.square(model - measured).sum()),
    )
    return best, measured


def test_the_reflected_beam_of_galaxi_lies_where_the_geometry_says(galaxi):
    row, column = np.unravel_index(galaxi.whole.argmax(), galaxi.whole.shape)
    ours = galaxi.detector.row_of(INCIDENCE, INCIDENCE) * 3
    assert row + 0.5 == pytest.approx(ours, abs=1)
    assert column + 0.5 == pytest.approx(galaxi.detector.normal_px[1] * 3, abs=1)


def test_galaxi_is_lit_from_the_horizon_of_its_geometry_on(galaxi):
    counts, detector = galaxi.around
    check_horizon(counts, counts < 0, detector, INCIDENCE)
    row, column = detector.normal_px
    with pytest.raises(GeometryError, match="surface scatters from row 67 on"):
        check_horizon(counts, counts < 0, replace(detector, normal_px=(row + 10, column)), INCIDENCE)


def test_cuts_of_the_silver_particles(galaxi):
    """It falls away from the plane of incidence, and peaks between the critical angles of its media."""
    counts, detector = galaxi.around
    cut = in_plane_cut(counts, counts < 0, detector, INCIDENCE, (math.radians(0.1), math.radians(0.2)))
    assert (np.diff(cut.q_inv_angstrom) > 0).all() and (cut.q_inv_angstrom < 0).all()
    assert cut.mean[-15:].mean() > 3 * cut.mean[:15].mean()
    upwards = out_of_plane_cut(counts, counts < 0, detector, INCIDENCE, (-0.04, -0.01))
    peak = upwards.q_inv_angstrom[upwards.mean.argmax()] * WAVELENGTH / (2 * math.pi) - math.sin(INCIDENCE)
    assert math.sqrt(2 * HMDSO[0]) < peak < math.sqrt(2 * SILICON[0])


PUBLISHED = {"radius": 57.5, "spread": 0.4, "distance": 536.0, "disorder": 105.0, "coupling": 17.5}


def test_silver_particles_at_the_published_parameters(galaxi):
    """The defaults of BornAgain's example, not a fit: the shape is right, the film's edge too low."""
    model, measured = scaled(galaxi, np.maximum(silver(galaxi.detector, **PUBLISHED), 0))
    assert np.corrcoef(model, measured)[0, 1] > 0.87
    assert (model - measured).std() < 0.55
    rows = [
        np.where(galaxi.used, m, 0).sum(1).argmax()
        for m in (galaxi.mean, silver(galaxi.detector, **PUBLISHED))
    ]
    assert abs(rows[0] - rows[1]) <= 1


def test_silver_particles_with_a_film_that_holds_their_silver(galaxi):
    """Fitted with the film's optical constants, thicknesses and roughness; the radius is within 4 to 6 nm."""
    fitted = silver(
        galaxi.detector,
        radius=54.4,
        spread=0.686,
        distance=208.0,
        disorder=299.6,
        coupling=15.9,
        film=(3.50e-6, 8.7e-7),
        thickness=(182.9, 301.4),
        roughness=(11.8, 34.9),
    )
    model, measured = scaled(galaxi, fitted)
    assert (model - measured).std() < 0.29
    assert np.corrcoef(model, measured)[0, 1] > 0.96
