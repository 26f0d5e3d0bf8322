"""Ptychographic frames as a modality: frames and neighbours in, phase and absorption out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import (
    Frame,
    FrameError,
    GeometryError,
    HologramGeometry,
    ModelInfo,
    Origin,
    PtychographyGeometry,
)
from nfphasing_bluesky.inference.collated import collate, in_parts
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.imaging import survey
from nfphasing_bluesky.modalities.imaging.patterns import estimate, expected, transmission
from nfphasing_bluesky.physics.imaging.patches import cut
from nfphasing_bluesky.physics.imaging.probes import random_probes
from nfphasing_bluesky.physics.imaging.scan_estimate import gauge
from nfphasing_bluesky.physics.objects import random_objects
from nfphasing_bluesky.physics.ptychography import wave_intensity
from tests import simulated_scan

SIDE = 64
PLACES = [(20.0, 20.0), (27.3, 18.6), (14.2, 23.9), (18.5, 12.5)]
FAR = torch.tensor([torch.nan], dtype=torch.float64)


@pytest.fixture(scope="module")
def subject():
    return modality("ptychography")


@pytest.fixture(scope="module")
def simulated(subject):
    generator = torch.Generator().manual_seed(0)
    draws = subject.sample_prior(12, generator)
    return draws, subject.simulate(draws, generator)[0]


@pytest.fixture(scope="module")
def scene():
    """An object (1, 2, Y, X) of phase and absorption, and a probe of 1e7 photons."""
    generator = torch.Generator().manual_seed(5)
    maps = random_objects(1, (110, 110), generator=generator, kinds=["dead leaves"]).maps
    return torch.stack([-0.8 * maps, 0.1 * maps], 1), 1e7**0.5 * random_probes(1, SIDE, generator)


def test_objects_apart_are_each_of_a_scan_of_their_own(subject):
    together, apart = (
        draw(12, torch.Generator().manual_seed(4)) for draw in (subject.sample_prior, subject.sample_apart)
    )
    assert len(together.scan.unique()) < 12
    assert apart.scan.tolist() == list(range(12)) == apart.frame.tolist()
    assert 0 < int((apart.rank > 0).sum()) < 12
    batch, truth = subject.simulate(apart, torch.Generator().manual_seed(5))
    assert len(batch) == 12
    light = wave_intensity(batch.probe).sum((-2, -1))
    assert len(light.unique()) == 12
    again = subject.simulate(apart, torch.Generator())[1]
    assert torch.equal(truth["mean_transmission"], again["mean_transmission"])


def frames(scene, number=None, centred=True) -> list[Frame]:
    """Noise-free frames at `PLACES`, the first with the others as neighbours."""
    u, probe = scene
    made = []
    for i, place in enumerate(PLACES):
        corner = torch.floor(torch.tensor([place]) + 0.5).long()
        wave = transmission(cut(u, corner, (SIDE, SIDE)))
        fresnel = FAR if number is None else torch.tensor([number], dtype=torch.float64)
        mean = expected(wave, probe, torch.tensor([place]) - corner, fresnel, centred)
        geometry = PtychographyGeometry(probe[0].numpy(), place, number, centred, pixel_size_m=2e-8)
        made.append(Frame(mean[0].numpy(), geometry, origin=Origin(label=f"frame {i}")))
    return [replace(made[0], neighbours=tuple(made[1:])), *made[1:]]


def truth(scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Phase and absorption (2, H, W) of the first patch in its gauge, and the light on it."""
    u, probe = scene
    patch, light = cut(u, torch.tensor([[20, 20]]), (SIDE, SIDE)), wave_intensity(probe)
    angle = gauge(transmission(patch), light)
    return patch[0] - torch.stack([angle, torch.zeros(1)])[:, :, None], light[0]


@pytest.mark.parametrize(("number", "least"), [(None, (0.9, 0.3)), (0.1, (0.45, 0.3))], ids=["far", "near"])
def test_what_the_network_sees_is_the_object(subject, scene, number, least):
    batch = subject.collate(frames(scene, number)[:1], 0.0)
    channels, extras = subject.context(batch)
    (phase, mu), light = truth(scene)
    lit = light > 0.2 * light.max()
    for part, values in enumerate((phase, mu)):
        found = channels[0, part] * extras[0, part].exp()
        assert float(torch.corrcoef(torch.stack([found[lit], values[lit]]))[0, 1]) > least[part]
    assert float((channels[0, 0] * extras[0, 0].exp() - phase)[lit].mean().abs()) < 0.05


def test_the_corner_of_the_detector_changes_nothing(subject, scene):
    one, other = (subject.collate(frames(scene, centred=c)[:1], 0.0) for c in (True, False))
    torch.testing.assert_close(one.channels, other.channels, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(torch.fft.ifftshift(one.intensity, dim=(-2, -1)), other.intensity)


def test_the_object_explains_its_frame_as_the_detector_has_it(subject, scene):
    u, _ = truth(scene)
    draws = Draws(torch.zeros(1).long(), u.reshape(1, -1), torch.zeros(1).long())
    for number, centred in ((None, True), (None, False), (0.1, True)):
        batch = subject.collate(frames(scene, number, centred)[:1], 0.0)
        predicted = subject.evaluate(draws, batch).predicted
        torch.testing.assert_close(predicted, batch.intensity, atol=0.5, rtol=2e-3)
        assert float(subject.reduced_chi2(batch, predicted)[0]) < 1e-3


def test_neighbours_help_and_may_be_few(subject, scene):
    first, *_ = frames(scene)
    phase = truth(scene)[0][0]
    light = truth(scene)[1]
    lit = light > 0.2 * light.max()
    found = []
    for count in (0, 3):
        batch = subject.collate([replace(first, neighbours=first.neighbours[:count])], 0.0)
        image = (batch.channels[0, 0] * batch.extras[0, 0].exp())[lit]
        found.append(float((image - phase[lit]).square().mean()))
    assert found[1] < 0.8 * found[0]
    # frames with fewer neighbours share a batch with those that have more
    both = subject.collate([replace(first, neighbours=()), first], 0.0)
    alone = subject.collate([replace(first, neighbours=())], 0.0)
    torch.testing.assert_close(both.channels[:1], alone.channels, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", [None, 0.1], ids=["far", "near"])
def test_a_survey_tells_frames_as_much_as_all_others_do(subject, scene, number):
    whole = frames(scene, number)
    order = [2, 0, 3, 1]
    bare = [replace(frame, neighbours=()) for frame in whole]
    found = subject.survey([bare[i] for i in order])
    assert [frame.origin.label for frame in found] == [f"frame {i}" for i in order]
    one, other = (subject.collate(f, 0.0) for f in ([found[1]], whole[:1]))
    wanted, light = truth(scene)
    lit = light > 0.2 * light.max()
    errors = [float((estimate(b)[0, 0] - wanted[0])[lit].square().mean()) for b in (one, other)]
    assert errors[0] < 1.5 * errors[1]
    # and in a batch with one that was not surveyed each has its own
    both = subject.collate([whole[0], found[1]], 0.0)
    torch.testing.assert_close(both.channels[1:], one.channels, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.channels[:1], other.channels, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("known", [True, False], ids=["known", "found"])
def test_frames_are_explained_over_their_background(subject, known, monkeypatch):
    monkeypatch.setattr(simulated_scan, "PIXELS", 128)
    side = simulated_scan.SIDE
    there = np.zeros((side, side))
    there[:, 8:12] = 40.0
    scan = simulated_scan.simulate(background=torch.from_numpy(there), where=simulated_scan.places(9, 9, 8.0))
    probe, counts = scan.probe.numpy(), scan.exposures.counts.numpy()
    whole = [
        Frame(image, PtychographyGeometry(probe, tuple(place), background=there if known else None))
        for image, place in zip(counts, scan.exposures.position.tolist(), strict=True)
    ]
    found = subject.survey(whole)
    background = found[0].geometry.background
    assert np.corrcoef(background.ravel(), there.ravel())[0, 1] > 0.7
    batch, rows = subject.collate(found[::9], 0.0), torch.arange(9)
    predicted = subject.forward(Draws(0 * rows, estimate(batch).flatten(1), rows), batch)
    chi2 = subject.reduced_chi2(batch, predicted)
    without = subject.reduced_chi2(batch, predicted - batch.background)
    assert float(chi2.median()) < 4 and float((without / chi2).median()) > 10


def test_what_lies_alone_or_cannot_be_used_is_not_surveyed(subject, scene):
    first, second, third, fourth = frames(scene)
    far_away = replace(third.geometry, position_px=(900.0, 900.0))
    odd = [
        replace(first, neighbours=()),
        second,
        replace(third, geometry=far_away),
        replace(fourth, intensity=np.zeros((SIDE, SIDE))),
    ]
    found = subject.survey(odd)
    assert [frame.survey is not None for frame in found] == [True, True, False, False]
    assert [frame.intensity.sum() for frame in found] == [frame.intensity.sum() for frame in odd]


def test_a_large_scan_is_surveyed_in_blocks_that_overlap(subject, scene, monkeypatch):
    whole = [replace(frame, neighbours=()) for frame in frames(scene)]
    together = subject.collate(subject.survey(whole), 0.0)
    monkeypatch.setattr(survey, "VALUES_AT_ONCE", 2 * whole[0].geometry.probe.size)
    parts = subject.survey(whole)
    assert len({id(frame.survey.scan) for frame in parts}) == 2
    # frames so close to each other are all in both blocks, in another order
    away = estimate(subject.collate(parts, 0.0))[:, 0] - estimate(together)[:, 0]
    assert 0 < float(away.std()) < 0.2 * float(estimate(together)[:, 0].std())


def test_simulated_truths_are_in_their_gauge(subject, simulated):
    draws, batch = simulated
    light = wave_intensity(batch.probe)
    assert float(gauge(transmission(draws.patch), light).abs().max()) < 1e-4
    side = subject.settings.tile
    part = cut(draws.patch, draws.corner, (side, side))
    torch.testing.assert_close(part.flatten(1), draws.theta)
    near = torch.isfinite(batch.fresnel_number)
    assert 0 < int(near.sum()) < len(near)


def test_no_draw_has_a_phase_as_a_whole(subject, scene):
    batch = subject.collate(frames(scene)[:1], 0.0)
    u, _ = truth(scene)
    turned = torch.stack([u + torch.tensor([angle, 0.0])[:, None, None] for angle in (0.0, 0.3, -2.0)])
    draws = Draws(torch.zeros(3).long(), turned.flatten(1), torch.zeros(3).long())
    evaluated = subject.evaluate(draws, batch)
    found = subject.density(draws, evaluated.nuisance)
    torch.testing.assert_close(found, u.expand(3, -1, -1, -1), atol=2e-3, rtol=0)
    spread = subject.report(draws, evaluated.nuisance)["phase_spread_rad"]
    torch.testing.assert_close(spread, spread[:1].expand(3))


def test_a_part_of_a_patch_has_the_phase_of_its_surroundings(subject, simulated):
    draws, batch = simulated
    light = batch.light
    turned = draws.theta.unflatten(1, (2, *light.shape[1:])).clone()
    turned[:, 0] += 0.2
    moved = replace(draws, theta=turned.flatten(1))
    one, other = (subject.density(d, subject.evaluate(d, batch).nuisance) for d in (draws, moved))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    angles = [gauge(transmission(v), light) for v in (one, estimate(batch))]
    torch.testing.assert_close(*angles, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        subject.forward(draws, batch), subject.forward(moved, batch), atol=1e-2, rtol=1e-3
    )


def test_axes_say_which_part_is_which(subject, scene):
    batch = subject.collate(frames(scene)[:1], 0.0)
    info = subject.density_of(batch, 0)
    assert info.shape == (2, SIDE, SIDE)
    assert info.axes[0].labels == ("phase", "absorption")
    assert info.axes[2].units == "m"
    assert info.axes[2].values[-1] == pytest.approx(63 * 2e-8)
    u = torch.zeros(1, 2, SIDE, SIDE)
    u[:, 1] = 0.5
    draws = Draws(torch.zeros(1).long(), u.flatten(1), torch.zeros(1).long())
    report = subject.report(draws, {"light": batch.light})
    assert float(report["mean_transmission"][0]) == pytest.approx(np.exp(-1), rel=1e-4)
    assert float(report["phase_spread_rad"][0]) == 0.0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"intensity": np.ones((48, 48))}, FrameError, "one size"),
        ({"intensity": np.zeros((SIDE, SIDE))}, FrameError, "no photon"),
        ({"geometry": HologramGeometry(0.01)}, GeometryError, "PtychographyGeometry"),
        ({"mask": np.ones((SIDE, SIDE), dtype=bool)}, FrameError, "mask"),
    ],
)
def test_a_frame_that_cannot_be_used_says_why(subject, scene, changes, error, words):
    first = replace(frames(scene)[0], **changes)
    with pytest.raises(error, match=words):
        subject.collate([first], 0.0)


def test_a_frame_of_another_kind_fails_alone(subject, scene):
    """What batches are made of is not known of it."""
    odd = Frame(np.ones((SIDE, SIDE)), HologramGeometry(0.01, photons=100.0))
    mixed = [odd, *frames(scene)[1:3]]
    assert in_parts(mixed, subject, 4, torch.device("cpu")) == [[0], [1, 2]]
    info = ModelInfo("m", subject.name, "1", "0" * 64, subject.density_info, subject.parameters)
    failed = collate(mixed[:1], subject, info, 0.0).failed[0]
    assert "found a HologramGeometry, expected a PtychographyGeometry" in failed.reason


def test_a_neighbour_that_cannot_be_used_is_left_out(subject, scene):
    first = frames(scene)[0]
    dark = replace(first.neighbours[0], intensity=np.zeros((SIDE, SIDE)))
    with_dark, without = (
        subject.collate([replace(first, neighbours=n)], 0.0)
        for n in ((dark, *first.neighbours[1:]), first.neighbours[1:])
    )
    assert torch.equal(with_dark.channels, without.channels)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"probe": np.ones((4, 4))}, "complex"),
        ({"probe": np.zeros((4, 4), dtype=complex)}, "dark"),
        ({"position_px": (0.0, float("nan"))}, "position_px"),
        ({"fresnel_number": -1.0}, "fresnel_number"),
    ],
)
def test_a_geometry_that_cannot_be(wrong, words):
    with pytest.raises(GeometryError, match=words):
        PtychographyGeometry(**{"probe": np.ones((4, 4), dtype=complex), "position_px": (0.0, 0.0), **wrong})
