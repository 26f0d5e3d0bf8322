"""Coherent patterns: on small grids every enumerated solution is a mode of the right weight."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    DetectorGeometry,
    Failure,
    Frame,
    GeometryError,
    Origin,
    PlaneGeometry,
    ReconstructionSettings,
    Verdict,
)
from nfphasing_bluesky.inference import Reconstructor
from nfphasing_bluesky.modalities import modality
from nfphasing_bluesky.modalities.coherent.half_pattern import half_pattern
from nfphasing_bluesky.modalities.coherent.solutions import MISSING, Search, solutions
from nfphasing_bluesky.models import Card
from nfphasing_bluesky.storage.nexus import write_posterior
from nfphasing_bluesky.training.rounds import Round, simulate_round
from nfphasing_bluesky.training.settings import TrainSettings
from nfphasing_bluesky.views.images import figure_2d
from tests.oracles.enumerated_cdi import (
    UniformPrior,
    enumerate_objects,
    importance_weights,
    intensity,
    laplace,
)

LINE = {"correlation_px": 0.0, "starts": 256, "steps": 80, "slots": 64}
RESOLVED = 5.0
"""Standard deviations between solutions by Laplace's method, below which `find_modes` may see one mode."""


def reconstructor(shape, draws, **settings) -> Reconstructor:
    subject = modality("saxs2d-cdi", {"shape": shape, **settings})
    card = Card(
        name="untrained",
        modality=subject.name,
        code_version="0",
        sha256="0" * 64,
        network=subject.settings.model_dump(mode="json"),
        ranges={},
    )
    torch.manual_seed(0)
    settings = ReconstructionSettings(n_samples=draws)
    return Reconstructor(card, subject, subject.network(), None, settings, "cpu")


def line_frame(values, sigma) -> Frame:
    """A row of exact scale, q = 0 in the middle; `values` as numpy's FFT orders them."""
    n = values.size
    geometry = PlaneGeometry((np.arange(n) - n // 2) * 0.01, np.zeros(1), coherent_scale=1.0)
    return Frame(np.fft.fftshift(values)[None], geometry, np.full((1, n), sigma), origin=Origin(seq_num=1))


def answers(peaks):
    """Index of the answer of each peak: peaks that the noise does not tell apart are one."""
    index = np.arange(len(peaks))
    for a, one in enumerate(peaks):
        for b, other in enumerate(peaks[:a]):
            apart = one.u - other.u
            square = apart @ np.linalg.solve((one.covariance + other.covariance) / 2, apart)
            if square < RESOLVED**2:
                index[index == index[a]] = index[b]
    return index


CASES = [(8, 7, 0.02), (8, 3, 0.01), (9, 5, 0.01), (10, 5, 0.01), (10, 2, 0.01)]
DRAWN = [1000, 1003, 1023]
"""Seeds of `drawn_line`: 16 answers of which one division after another joined 12; a curved one; pixels near
the bound, where peaks are skewed and Gaussians about them give weights that are 6 points off."""


def drawn_line(seed):
    """Pixels, sigma and noisy intensities of a random line."""
    rng = np.random.default_rng(seed)
    n, sigma = int(rng.integers(8, 11)), float(10 ** rng.uniform(-2.3, -1.7))
    u = rng.uniform(0.1, 1, n)
    return u, sigma, intensity(u) + sigma * rng.normal(size=2 * n)


def case(n, seed, sigma):
    u = np.random.default_rng(seed).uniform(0.1, 1, n)
    return u, sigma, intensity(u) + sigma * np.random.default_rng(5).normal(size=2 * n)


@pytest.mark.parametrize("line", [*map(case, *zip(*CASES, strict=True)), *map(drawn_line, DRAWN)])
def test_every_solution_of_a_line_is_a_mode_of_its_weight(line):
    u, sigma, values = line
    prior = UniformPrior(0, 1)
    peaks = laplace(enumerate_objects(intensity(u), real=True), values, sigma, prior)
    share, ess = importance_weights(peaks, values, sigma, prior, 50_000)
    assert ess > 0.05
    index = answers(peaks)
    posterior = reconstructor((1, u.size), 1500, **LINE)([line_frame(values, sigma)])[0]
    weight, found, nearest = np.zeros(len(peaks)), np.zeros(len(peaks)), []
    np.add.at(weight, index, share)
    for mode in posterior.modes():
        apart = [np.linalg.norm(mode.mean[0] - peak.u) for peak in peaks]
        assert min(apart) < 0.15 * np.linalg.norm(u)
        nearest.append(int(np.argmin(apart)))
        found[index[nearest[-1]]] += mode.weight
    assert len(set(nearest)) == len(nearest)
    heavy = weight > 0.02
    assert heavy.sum() >= 2 and (found[heavy] > 0).all()
    assert np.abs(found - weight).max() < 0.05
    assert posterior.trust.reduced_chi2 < 1.5


def test_answers_that_were_found_once_are_a_doubt_until_the_search_is_longer():
    u, sigma, values = case(9, 5, 0.01)
    subject = modality("saxs2d-cdi", {"shape": (1, u.size), "correlation_px": 0.0})
    batch = subject.collate([line_frame(values, sigma)], 0.0)
    pattern = half_pattern(batch, 0, subject.prior, subject.background.moments())
    hasty, patient = (
        solutions(pattern, Search(2, 40, 64, 0, patience), torch.Generator().manual_seed(1)).features
        for patience in (1.0, 16.0)
    )
    assert hasty[0, MISSING] > 0.05 and patient[0, MISSING] == 0
    assert len(patient) > len(hasty)


def test_a_frame_whose_answers_may_be_incomplete_is_not_valid():
    u, sigma, values = case(18, 5, 0.01)
    posterior = reconstructor((1, u.size), 16, **LINE | {"starts": 2})([line_frame(values, sigma)])[0]
    assert posterior.trust.verdict is not Verdict.VALID and "may be missing" in posterior.trust.reason


def simulated(subject, n):
    generator = torch.Generator().manual_seed(3)
    return subject.simulate(subject.sample_prior(n, generator), generator)[0]


def absolute(subject, n):
    """The same frames with their backgrounds subtracted, and their scales said."""
    generator = torch.Generator().manual_seed(3)
    batch, truth = subject.simulate(subject.sample_prior(n, generator), generator)
    intensity = batch.intensity - truth["background"].double()[:, None, None]
    known = torch.ones(n, dtype=torch.bool)
    return replace(batch, intensity=intensity, scale=truth["scale"].double(), scale_known=known)


def test_the_inversion_twin_is_an_answer_of_its_own():
    subject = reconstructor((8, 8), 200)
    batch = absolute(subject.modality, 3)
    draws = subject.modality.sample_prior(3, torch.Generator().manual_seed(3))
    truth = subject.modality.density(draws, {}).numpy()
    for u, posterior in zip(
        truth, subject.reconstruct(batch, [Origin(seq_num=i) for i in range(3)]), strict=True
    ):
        modes = posterior.modes()
        assert posterior.trust.reduced_chi2 < 1.2
        assert len(modes) >= 2
        # the object and its twin weigh the same and stand side by side; one blurred mean is neither
        errors = [[relative(m.mean, v) for m in modes] for v in (u, u[::-1, ::-1])]
        near = [int(np.argmin(row)) for row in errors]
        assert near[0] != near[1] and max(min(row) for row in errors) < 0.1
        assert abs(modes[near[0]].weight - modes[near[1]].weight) < 0.15
        assert relative(posterior.mean, u) > 2 * min(errors[0])


def test_a_round_of_training_has_the_anchors_of_every_answer():
    subject = modality("saxs2d-cdi", {"shape": (5, 4), "starts": 2, "steps": 8, "slots": 3})
    settings = TrainSettings(batch=4, round_batches=2, reuse=1)
    generator = torch.Generator().manual_seed(0)
    made = Round(simulate_round(subject, settings, generator), settings, generator).take(1)
    network = subject.network()
    value = network(made.channels, made.extra, made.anchors).log_prob(made.draws)
    value.mean().backward()
    assert value.shape == (4,) and torch.isfinite(value).all()
    assert made.anchors.kinds == tuple(range(len(made.anchors.kinds)))
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in network.parameters())


def relative(mean, u) -> float:
    return float(np.linalg.norm(mean - u) / np.linalg.norm(u))


def detector(shape, row, column) -> DetectorGeometry:
    """75 micrometres, 1.5 angstrom, 5 m; the beam at a pixel's centre for whole numbers."""
    return DetectorGeometry(1.5e-10, 5.0, (75e-6, 75e-6), ((row + 0.5) * 75e-6, (column + 0.5) * 75e-6))


def test_a_detector_frame_is_cut_about_the_beam_and_knows_its_pixel():
    subject = modality("saxs2d-cdi")
    batch = simulated(subject, 1)
    image = np.zeros((40, 50))
    image[5:21, 12:28] = batch.intensity[0]
    again = subject.collate([Frame(image, detector((40, 50), 13, 20))], 0.0)
    assert torch.equal(again.intensity[0], batch.intensity[0])
    info = subject.density_of(again, 0)
    assert info.shape == (8, 8)
    assert info.axes[0].values[1] == pytest.approx(1.5e-10 * 5.0 / (16 * 75e-6))
    assert info.axes[0].units == "m"


def test_the_marks_of_a_detector_are_no_counts():
    """-1 and -2 in the gaps, as Pilatus and Eiger write them, are as good as a mask there."""
    subject = modality("saxs2d-cdi")
    counts = np.random.default_rng(0).poisson(50, (16, 16)).astype(np.int32)
    gap = np.zeros((16, 16), bool)
    gap[:, 11:13] = True
    marked = np.where(gap, np.where(np.arange(16)[:, None] < 8, -1, -2), counts)
    said, found = (
        subject.collate([frame], 0.0)
        for frame in (
            Frame(counts, detector((16, 16), 8, 8), mask=gap),
            Frame(marked, detector((16, 16), 8, 8)),
        )
    )
    for name in ("intensity", "sigma", "mask", "scale"):
        assert torch.equal(getattr(found, name), getattr(said, name)), name


def test_scale_and_background_that_are_not_told_are_inferred_beside_the_object():
    subject = reconstructor((8, 8), 200)
    generator = torch.Generator().manual_seed(3)
    draws = subject.modality.sample_prior(2, generator)
    batch, truth = subject.modality.simulate(draws, generator)
    posterior = subject.reconstruct(batch.at(torch.tensor([1])), [Origin(seq_num=1)])[0]
    assert posterior.trust.reduced_chi2 < 1.3
    for name in ("total_density", "scale", "background"):
        found = posterior.summary()[name]
        assert found.q025 < float(truth[name][1]) < found.q975, name
    scale = posterior.parameters["scale"]
    assert 0.002 < scale.std() / scale.mean() < 0.3
    # a brighter beam or a denser object: the pattern says their product
    assert np.corrcoef(np.log(scale), np.log(posterior.parameters["total_density"]))[0, 1] < -0.7


def test_a_frame_that_says_its_scale_is_taken_at_its_word():
    subject = modality("saxs2d-cdi")
    batch = absolute(subject, 2)
    draws = subject.sample_prior(2, torch.Generator().manual_seed(3))
    found = subject.evaluate(draws, batch, torch.randn(2, 2))
    torch.testing.assert_close(found.nuisance["scale"], batch.scale)
    assert not found.nuisance["beta"].any()
    off = (found.predicted - batch.intensity).square() * batch.weight
    torch.testing.assert_close(found.log_likelihood, -0.5 * off.sum((1, 2)))
    # beside one that does not, which is conditioned as it would be alone
    free = simulated(subject, 2)
    both = replace(free, **{n: torch.stack([getattr(batch, n)[0], getattr(free, n)[1]]) for n in vars(free)})
    mixed, alone = (subject.log_likelihood(draws, one) for one in (both, free))
    torch.testing.assert_close(mixed, torch.stack([found.log_likelihood[0], alone[1]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"geometry": detector((40, 50), 3, 20)}, "does not hold the"),
        ({"geometry": detector((40, 50), 13.4, 20)}, "row 13.40 and column 20.00"),
        ({"mask": np.ones((40, 50), bool)}, "0 usable pixels"),
        ({"intensity": np.zeros((40, 50))}, "check the shutter"),
        ({"intensity": np.full((40, 50), np.nan)}, "0 usable pixels"),
    ],
)
def test_frames_that_cannot_be_used_say_why_and_the_others_go_on(changes, message):
    subject = reconstructor((4, 4), 16, correlation_px=1.0, starts=4, slots=2)
    counts = np.random.default_rng(0).poisson(50, (40, 50)).astype(float)
    good = Frame(counts, detector((40, 50), 13, 20))
    bad = Frame(**({"intensity": counts, "geometry": good.geometry} | changes))
    first, second = subject([good, bad])
    assert not isinstance(first, Failure)
    assert first.prediction.mean.shape == (40, 50)
    assert np.isfinite(first.prediction.mean).sum() == 64
    assert isinstance(second, Failure) and message in second.reason


def test_q_that_is_not_even_is_refused():
    subject = modality("saxs2d-cdi")
    q = np.sinh(np.linspace(-2, 2, 17))[:16]
    with pytest.raises(GeometryError, match="regrid"):
        subject.collate([Frame(np.ones((16, 16)), PlaneGeometry(q, q))], 0.0)


def test_answers_of_a_detector_frame_are_drawn_and_stored_side_by_side(tmp_path):
    """The scale is not told; it has to be found."""
    subject = reconstructor((8, 8), 128)
    batch = simulated(subject.modality, 2)
    values = (v[1].numpy() for v in (batch.intensity, batch.sigma, batch.mask))
    intensity_, sigma, mask = values
    frame = Frame(intensity_, detector((16, 16), 8, 8), sigma, mask)
    posterior = subject([frame])[0]
    assert posterior.trust.reduced_chi2 < 1.3
    reason = "reduced chi-squared 9.32 exceeds 3: no draw fits; " * 6
    told = replace(posterior, trust=replace(posterior.trust, reason=reason))
    figure = figure_2d(frame, told, subject.info)
    shown = {axes.get_title(): axes for axes in figure.axes}
    assert sum(title.startswith("answer") for title in shown) == min(3, len(posterior.modes()))
    # no second object: a twin is named
    assert sum("turned by 180" in title for title in shown) == 1
    # qy and y both grow upwards: a rod and its streak must stand upright to each other
    (above,) = shown[f"answer 1 of {len(posterior.modes())}, weight {posterior.modes()[0].weight:.0%}"].images
    np.testing.assert_array_equal(above.get_array(), posterior.modes()[0].mean[::-1])
    left, right, bottom, top = above.get_extent()
    assert top > bottom and right > left
    figure.canvas.draw()
    (words,) = (text for text in figure.texts if "no draw fits" in text.get_text())
    assert not any(words.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)
    path = write_posterior(tmp_path / "out.h5", posterior, frame, subject.info, subject.settings)
    with h5py.File(path) as file:
        assert file["entry/modes/weight"][()].sum() == pytest.approx(1)
        assert file["entry/modes/mean"].shape == (len(posterior.modes()), 8, 8)
