"""What is known of particles on a surface: places within bounds, and posteriors that stay there."""

import math
import re

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    Frame,
    FrameError,
    GrazingCutsGeometry,
    Origin,
    ReconstructionSettings,
    Verdict,
)
from nfphasing_bluesky.flows import Anchor
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.draws import Draws
from nfphasing_bluesky.modalities.grazing.cut_curves import IN_PLANE
from nfphasing_bluesky.modalities.grazing.known_fits import Cube
from nfphasing_bluesky.modalities.grazing.known_sample import Ends, bounds_of, nearest, ranges_of, within

SUBJECTS = {name: modality(name) for name in ("gisaxs1d", "gisaxs2d")}
KINDS = [(name, k) for name, subject in SUBJECTS.items() for k in range(len(subject.classes))]
COUNT = 200


def some_known(subject, k: int, seed: int) -> tuple[torch.Tensor, Ends]:
    """(N, D) samples of a class, and bounds on a third of their parameters that hold them."""
    generator = torch.Generator().manual_seed(seed)
    width = len(subject.classes[k].free)
    theta = torch.rand(COUNT, width, generator=generator, dtype=torch.float64)
    values = subject.values(theta, k)
    both = torch.tensor([[-math.inf], [math.inf]], dtype=torch.float64).repeat(COUNT, 1, len(subject.names))
    for name, value in values.items():
        asked = torch.rand(COUNT, generator=generator) < 0.35
        low, high = ranges_of(subject.quantities)[name]
        span = (high - low) * 10 ** (-2.5 * torch.rand(COUNT, generator=generator, dtype=torch.float64))
        first = value - span * torch.rand(COUNT, generator=generator, dtype=torch.float64)
        place = subject.names.index(name)
        both[asked, 0, place], both[asked, 1, place] = first[asked], (first + span)[asked]
    return theta, Ends(subject.names, both)


@pytest.mark.parametrize(("name", "k"), KINDS)
def test_every_place_lies_within_the_bounds(name, k):
    subject = SUBJECTS[name]
    theta, ends = some_known(subject, k, 3)
    w = torch.rand(theta.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = within(w, subject.quantities[k], ends)
    assert float(((found >= 0) & (found <= 1)).double().mean()) == 1
    good = ends.hold(subject.values(found.float(), k))
    # bounds on many parameters may contradict each other for some of those before
    assert float(good.double().mean()) > 0.97
    assert bool(ends.hold(subject.values(theta, k)).all())


@pytest.mark.parametrize(("name", "k"), KINDS)
def test_a_sample_within_the_bounds_is_its_own_place(name, k):
    subject = SUBJECTS[name]
    theta, ends = some_known(subject, k, 4)
    w = torch.rand(theta.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = within(w, subject.quantities[k], ends)
    torch.testing.assert_close(nearest(found, subject.quantities[k], ends), w, atol=1e-4, rtol=0)
    # one outside goes next to it
    there = within(nearest(torch.rand_like(theta), subject.quantities[k], ends), subject.quantities[k], ends)
    assert float(ends.hold(subject.values(there.float(), k)).double().mean()) > 0.95


def test_without_bounds_places_are_coordinates():
    subject = SUBJECTS["gisaxs1d"]
    nothing = torch.tensor([[-math.inf], [math.inf]], dtype=torch.float64).repeat(5, 1, len(subject.names))
    w = torch.rand(5, len(subject.classes[1].free), dtype=torch.float64)
    found = within(w, subject.quantities[1], Ends(subject.names, nothing))
    torch.testing.assert_close(found, 0.01 + 0.98 * w)


def test_a_fit_is_the_same_gaussian_in_the_coordinates_of_the_flow():
    subject, k = SUBJECTS["gisaxs1d"], 1
    theta, ends = some_known(subject, k, 5)
    cube, width = Cube(subject.quantities[k], subject.names), theta.shape[1]
    known = ends.both[:3]
    generator = torch.Generator().manual_seed(0)
    y = 0.5 * torch.randn(3, width, generator=generator, dtype=torch.float64)
    factor = 1e-3 * torch.eye(width, dtype=torch.float64).expand(3, -1, -1)
    made = cube.in_flow(Anchor(y, factor, torch.zeros(3, 0)), known)
    z = torch.randn(20_000, width, generator=generator, dtype=torch.float64)
    for i in range(3):
        cloud = (y[i] + z @ factor[i].T).contiguous()
        place = torch.special.ndtr(cloud)
        there = torch.special.ndtri(cube.theta(place, known[i : i + 1].expand(len(z), -1, -1)))
        assert bool(((there.mean(0) - made.location[i]).abs() < 0.05 * there.std(0) + 1e-6).all())
        own = made.factor[i] @ made.factor[i].T
        ratio = there.std(0) / own.diagonal().sqrt()
        assert bool(((ratio - 1).abs() < 0.05).all())


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"radius_angstrom": (60, 40)}, "the lower one first"),
        ({"radius_angstrom": (5, 40)}, "within 10 to 120"),
        ({"radius": (20, 40)}, "expected a parameter: radius_angstrom"),
        ({"scale": (1, 2)}, "expected a parameter"),
        ({"layers": (1, 2)}, "expected a parameter"),
    ],
)
def test_bounds_that_make_no_sense_are_named(known, message):
    subject = SUBJECTS["gisaxs1d"]
    with pytest.raises(FrameError, match=f"frame.tif: bounds of.*{message}"):
        bounds_of(known, subject.names, subject.quantities, "frame.tif")


def pair(seed: int, **known: tuple[float, float]) -> tuple[Frame, dict[str, float]]:
    """Two cuts of particles in a film, and the truth of every parameter."""
    subject = SUBJECTS["gisaxs1d"]
    generator = torch.Generator().manual_seed(seed)
    draws = subject.sample_prior(8, generator)
    batch, truth = subject.simulate(draws, generator)
    i = int((draws.label == 1).nonzero()[0])
    good = ~batch.mask[i]
    split = int(good[:IN_PLANE].sum())
    points, beam = batch.points[i][good].numpy(), batch.beam[i]
    geometry = GrazingCutsGeometry(
        points[:split],
        points[split:],
        (float(beam[2]), float(beam[3])),
        (float(beam[4]), float(beam[5])),
        2e-10 * math.pi / float(beam[0]),
        float(beam[1]),
    )
    values = (v[i][good].double().numpy() for v in (batch.intensity, batch.sigma))
    intensity, sigma = values
    frame = Frame(intensity, geometry, sigma, origin=Origin(f"pair {seed}"), bounds=known)
    return frame, {name: float(value[i]) for name, value in truth.items()}


@pytest.fixture(scope="module")
def reconstructor() -> Reconstructor:
    return Reconstructor.load("gisaxs1d", "cpu", ReconstructionSettings(n_samples=128, sigma_floor=0.0))


def narrow(truth: dict[str, float], share: float, *names: str) -> dict[str, tuple[float, float]]:
    return {n: (truth[n] * (1 - share), truth[n] * (1 + 0.6 * share)) for n in names}


FILMS = (
    "film_thickness_angstrom",
    "film_density_e_per_cubic_angstrom",
    "radius_angstrom",
    "distance_angstrom",
)


def kept(posterior, name):
    draws = posterior.parameters[name]
    return draws[np.isfinite(draws)]


def test_draws_stay_within_what_is_known_and_it_is_said_what_was_kept(reconstructor):
    free, truth = pair(3)
    known = narrow(truth, 0.05, *FILMS)
    wide, held = reconstructor([free, pair(3, **known)[0]])
    for name, (low, high) in known.items():
        draws = kept(held, name)
        assert len(draws) and draws.min() >= low * (1 - 1e-6) and draws.max() <= high * (1 + 1e-6), name
    assert re.search(r"bounds keep .* % of the network's draws", held.trust.reason)
    assert held.trust.verdict is Verdict.VALID and wide.trust.reason == ""
    # what is known of the film says more of what is in it
    for name in ("height_angstrom", "depth_angstrom"):
        errors = [abs(p.summary()[name].median - truth[name]) for p in (held, wide)]
        assert errors[0] < 0.3 * errors[1], name


def test_what_is_known_to_be_wrong_is_not_left_and_not_believed(reconstructor):
    _, truth = pair(3)
    low = 0.3 * truth["film_thickness_angstrom"]
    known = {"film_thickness_angstrom": (low, 1.02 * low), "film_density_e_per_cubic_angstrom": (1.9, 2.0)}
    (held,) = reconstructor([pair(3, **known)[0]])
    for name, (least, most) in known.items():
        assert kept(held, name).min() >= least - 1e-4 and kept(held, name).max() <= most + 1e-4
    assert held.trust.verdict is Verdict.ALARM


def test_polished_draws_stay_within_too():
    settings = ReconstructionSettings(n_samples=16, polish_steps=2, sigma_floor=0.0)
    _, truth = pair(0)
    known = narrow(truth, 0.1, "film_thickness_angstrom")
    (held,) = Reconstructor.load("gisaxs1d", "cpu", settings)([pair(0, **known)[0]])
    draws = kept(held, "film_thickness_angstrom")
    low, high = known["film_thickness_angstrom"]
    assert draws.min() >= low * (1 - 1e-6) and draws.max() <= high * (1 + 1e-6)


def test_bounds_that_contradict_each_other_fail_the_frame(reconstructor):
    frame, _ = pair(0, radius_angstrom=(100, 120), height_angstrom=(0, 10))
    (failed,) = reconstructor([frame])
    assert "no sample has all of radius_angstrom, height_angstrom" in failed.reason


def test_particles_may_be_known_to_be_of_a_material(reconstructor):
    known = {"particle_density_e_per_cubic_angstrom": (2.4, 2.6)}
    (held,) = reconstructor([pair(0, **known)[0]])
    draws = held.parameters["particle_density_e_per_cubic_angstrom"]
    assert draws.min() >= 2.4 - 1e-6 and draws.max() <= 2.6 + 1e-6


def test_whole_frames_know_of_bounds_as_well():
    subject = SUBJECTS["gisaxs2d"]
    generator = torch.Generator().manual_seed(0)
    draws = subject.sample_prior(5, generator)
    batch, truth = subject.simulate(draws, generator)
    i = int((draws.label == 4).nonzero()[0])
    known = narrow({n: float(v[i]) for n, v in truth.items()}, 0.05, *FILMS)
    row = bounds_of(known, subject.names, subject.quantities, "frame")
    one = batch.at(torch.tensor([i]))
    one = type(one)(one.intensity, one.sigma, one.mask, one.q, one.shape, row[None])
    own = Draws(draws.label[[i]], draws.theta[[i]], torch.tensor([0]))
    assert bool(subject.inside(own, one)) and torch.isfinite(subject.log_likelihood(own, one)).all()
    other = Draws(own.label, (own.theta + 0.3).remainder(1.0), own.frame)
    assert not bool(subject.inside(other, one)) and subject.log_likelihood(other, one) == -torch.inf
    width = len(subject.classes[4].free)
    drawn = torch.rand(1, 16, width, generator=generator)
    fits = subject.fits_again(4, drawn, one, subject.anchors(one).get(4, torch.tensor([0])))
    place = torch.special.ndtr(fits.location[0])
    located = Draws(
        torch.full((len(place),), 4),
        torch.nn.functional.pad(place, (0, subject.width - width)),
        torch.zeros(4).long(),
    )
    assert bool(subject.inside(located, one).all()) and torch.isfinite(fits.log_share).any()
