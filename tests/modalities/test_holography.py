"""Holograms as a modality: frames in, tiles of larger frames, units out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, HologramGeometry, ModelError, Origin
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.imaging import image_network
from nfphasing_bluesky.modalities.imaging.holograms import expected
from nfphasing_bluesky.physics.holography import hologram, homogeneous_exit_wave, projected_density
from nfphasing_bluesky.physics.imaging.patches import cut, within

SIDE = 64
GEOMETRY = HologramGeometry(fresnel_number=0.01, beta_over_delta=0.02, photons=1e4)


@pytest.fixture(scope="module", params=["holography", "holography-free"])
def subject(request):
    return modality(request.param)


@pytest.fixture(scope="module")
def tied():
    return modality("holography")


@pytest.fixture(scope="module")
def free():
    return modality("holography-free")


@pytest.fixture(scope="module")
def simulated(subject):
    generator = torch.Generator().manual_seed(0)
    draws = subject.sample_prior(16, generator)
    return draws, subject.simulate(draws, generator)[0]


def disc(radius: float = 12.0, phase: float = -0.4) -> torch.Tensor:
    y, x = torch.meshgrid(*(torch.arange(SIDE) - 31.5,) * 2, indexing="ij")
    return phase * torch.sigmoid(2 * (radius - torch.hypot(y, x)))


def frame(geometry=GEOMETRY, **changes) -> Frame:
    wave = homogeneous_exit_wave(disc()[None].double(), geometry.beta_over_delta)
    intensity = hologram(wave, geometry.fresnel_number)[0].numpy()
    given = {"intensity": intensity, "geometry": geometry, "origin": Origin(label="holo"), **changes}
    return Frame(**given)


def test_a_model_of_other_channels_is_refused(subject):
    network = subject.settings.model_dump(mode="json")
    assert type(subject).build(network, {}).settings == subject.settings
    with pytest.raises(ModelError, match="trained on other channels .* train it again"):
        type(subject).build({**network, "flow": {**network["flow"], "referred": False}}, {})


def test_a_tile_sees_the_light_of_its_surroundings(subject, simulated):
    draws, batch = simulated
    whole = expected(draws.surroundings, batch.geometry)
    torch.testing.assert_close(
        subject.forward(draws, batch), cut(whole, batch.corner, (SIDE, SIDE)), atol=1e-5, rtol=1e-5
    )
    # half of the tiles are frames of their own: nothing around them
    own = draws.whole
    assert 0 < int(own.sum()) < len(own)
    nothing = torch.zeros(len(own), draws.surroundings.shape[1], SIDE, SIDE)
    empty = within(draws.surroundings, batch.corner, nothing)
    assert float(empty[own].abs().max()) == 0.0
    assert float(empty[~own].abs().amax((1, 2, 3)).min()) > 0.0


def test_the_back_projection_of_a_weak_object_is_the_object(tied):
    weak = HologramGeometry(fresnel_number=0.02, beta_over_delta=0.05, photons=1e7)
    phase = disc(phase=-0.05)
    wave = homogeneous_exit_wave(phase[None].double(), 0.05)
    batch = tied.collate([frame(weak, intensity=hologram(wave, 0.02)[0].numpy())], 0.0)
    channels, scalars = tied.context(batch)
    found = channels[0, 1] * scalars[0, 0].exp()
    assert float(torch.corrcoef(torch.stack([found.flatten(), phase.flatten()]))[0, 1]) > 0.99
    assert float(found[28:36, 28:36].mean()) == pytest.approx(-0.05, rel=0.1)


def test_frames_of_several_tiles_are_drawn_whole(subject):
    torch.manual_seed(0)
    network = subject.network()
    wide = np.ones((96, 200)) + 0.01 * np.random.default_rng(0).normal(size=(96, 200))
    batch = subject.collate([frame(intensity=wide)], 0.0)
    parts = len(subject.optics.parts)
    assert subject.latents(batch) == parts * 96 * 200
    noise = torch.randn(1, 3, 1 + parts * 96 * 200, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        draws, log_q = network(*subject.context(batch), subject.anchors(batch)).draw(noise)
    assert draws.theta.shape == (3, parts * 96 * 200)
    assert torch.isnan(log_q).all()
    assert subject.evaluate(draws, batch).predicted.shape == (3, 96, 200)
    density = subject.density(draws, subject.evaluate(draws, batch).nuisance)
    shape = (96, 200) if parts == 1 else (2, 96, 200)
    assert density.shape == (3, *shape)
    assert subject.density_of(batch, 0).shape == shape


def test_few_tiles_at_a_time_give_the_draws_of_all_at_once(subject, monkeypatch):
    torch.manual_seed(0)
    network = subject.network().eval()
    wide = np.ones((130, 200)) + 0.01 * np.random.default_rng(0).normal(size=(130, 200))
    batch = subject.collate([frame(intensity=wide)] * 2, 0.0)
    noise = torch.randn(2, 3, 1 + subject.latents(batch), generator=torch.Generator().manual_seed(1))
    seen: list[int] = []
    network.encoder.register_forward_hook(lambda module, given, made: seen.append(len(given[0])))
    found = []
    for most in (image_network.PIXELS_AT_ONCE, 5 * SIDE**2):
        monkeypatch.setattr(image_network, "PIXELS_AT_ONCE", most)
        with torch.no_grad():
            distribution = network(*subject.context(batch), subject.anchors(batch))
            found.append((distribution.embedding, distribution.draw(noise)[0].theta))
    assert seen == [48, *[5] * 9, 3]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_units_follow_what_is_known(tied):
    geometry = HologramGeometry(0.01, 0.0, pixel_size_m=5e-8, wavelength_m=1e-10, photons=1e4)
    known, unknown = (tied.collate([frame(g)], 0.0) for g in (geometry, GEOMETRY))
    draws = Draws(torch.zeros(1).long(), disc().view(1, -1), torch.zeros(1).long())
    phase = tied.density(draws, tied.evaluate(draws, unknown).nuisance)
    electrons = tied.density(draws, tied.evaluate(draws, known).nuisance)
    assert tied.density_of(unknown, 0).units == "rad"
    assert tied.density_of(known, 0).units == "e/angstrom^2"
    torch.testing.assert_close(phase[0], disc())
    torch.testing.assert_close(electrons, projected_density(disc()[None], 1.0))
    axis = tied.density_of(known, 0).axes[1]
    assert (axis.name, axis.units) == ("x", "m")
    assert axis.values[-1] == pytest.approx(63 * 5e-8)


def test_phase_and_absorption_have_their_names_and_units(free):
    geometry = HologramGeometry(0.01, pixel_size_m=5e-8, wavelength_m=1e-10, photons=1e4)
    batch = free.collate([frame(geometry)], 0.0)
    u = torch.stack([disc(), 0.1 * disc().square()])
    draws = Draws(torch.zeros(1).long(), u.view(1, -1), torch.zeros(1).long())
    nuisance = free.evaluate(draws, batch).nuisance
    torch.testing.assert_close(free.density(draws, nuisance)[0], u)
    info = free.density_of(batch, 0)
    assert (info.quantity, info.units) == ("phase and absorption", "rad")
    assert info.axes[0].labels == ("phase", "absorption")
    assert [(a.name, a.units) for a in info.axes[1:]] == [("y", "m"), ("x", "m")]
    report = free.report(draws, nuisance)
    assert float(report["mean_transmission"]) == pytest.approx(float(torch.exp(-2 * u[1]).mean()))
    assert float(report["strongest_absorption"]) == pytest.approx(float(u[1].max()), rel=0.01)
    assert float(report["strongest_phase_rad"]) == pytest.approx(-0.4, rel=0.01)


def test_where_absorption_is_tied_both_expect_the_same(tied, free):
    batch = tied.collate([frame()], 0.0)
    other = free.collate([frame()], 0.0)
    phase, none = disc(), torch.zeros(1).long()
    u = torch.stack([phase, -GEOMETRY.beta_over_delta * phase])
    one, both = Draws(none, phase.view(1, -1), none), Draws(none, u.view(1, -1), none)
    torch.testing.assert_close(tied.forward(one, batch), free.forward(both, other))
    likelihoods = tied.log_likelihood(one, batch), free.log_likelihood(both, other)
    torch.testing.assert_close(*likelihoods)


def test_a_ratio_that_is_not_used_is_said_once(free, caplog):
    said = replace(GEOMETRY, beta_over_delta=0.0123)
    intensity = frame().intensity
    unsaid = free.collate([frame(replace(said, beta_over_delta=0.0), intensity=intensity)], 0.0)
    for _ in range(2):
        batch = free.collate([frame(said, intensity=intensity)], 0.0)
    torch.testing.assert_close(batch.channels, unsaid.channels)
    torch.testing.assert_close(free.context(batch)[1], free.context(unsaid)[1])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "beta_over_delta=0.0123 is not used" in message and "holography" in message
    assert "beta_over_delta" not in free.features(batch) and "beta_over_delta" not in free.ranges


def test_absorptions_of_the_prior_are_of_all_kinds(free):
    draws = free.sample_prior(96, torch.Generator().manual_seed(3))
    phase, absorption = draws.theta.unflatten(1, (2, SIDE, SIDE)).flatten(2).unbind(1)
    ratio = absorption.std(1) / phase.std(1)
    assert float(ratio.min()) < 2e-3 and float(ratio.max()) > 0.1
    together = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(-phase, absorption, strict=True)]
    )
    strong = ratio > 0.01
    assert 0.1 < float((together[strong] > 0.99).float().mean()) < 0.7
    assert float((together[strong] < 0.8).float().mean()) > 0.2


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"intensity": np.ones((40, 64))}, FrameError, "at least 64"),
        ({"geometry": HologramGeometry(0.01)}, FrameError, "photons"),
        ({"intensity": 1e4 * np.ones((64, 64))}, FrameError, "empty image"),
        ({"mask": np.ones((64, 64), dtype=bool)}, FrameError, "mask"),
    ],
)
def test_a_frame_that_cannot_be_used_says_why(subject, changes, error, words):
    with pytest.raises(error, match=words):
        subject.collate([frame(**changes)], 0.0)


@pytest.mark.parametrize(
    "wrong", [{"fresnel_number": 0.0}, {"fresnel_number": float("nan")}, {"beta_over_delta": -0.1}]
)
def test_a_geometry_that_cannot_be(wrong):
    with pytest.raises(GeometryError, match=next(iter(wrong))):
        HologramGeometry(**{"fresnel_number": 0.01, **wrong})
