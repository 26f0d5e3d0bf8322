"""Holograms as a modality: frames in, tiles of larger frames, units out."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, FrameError, GeometryError, HologramGeometry, ModelError, Origin
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.holograms import expected
from nfphasing_bluesky.physics.holography import hologram, homogeneous_exit_wave, projected_density
from nfphasing_bluesky.physics.patches import cut, within

SIDE = 64
GEOMETRY = HologramGeometry(fresnel_number=0.01, beta_over_delta=0.02, photons=1e4)


@pytest.fixture(scope="module")
def subject():
    return modality("holography")


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
    empty = within(draws.surroundings, batch.corner, torch.zeros(len(own), SIDE, SIDE))
    assert float(empty[own].abs().max()) == 0.0
    assert float(empty[~own].abs().amax((1, 2)).min()) > 0.0


def test_the_back_projection_of_a_weak_object_is_the_object(subject):
    weak = HologramGeometry(fresnel_number=0.02, beta_over_delta=0.05, photons=1e7)
    phase = disc(phase=-0.05)
    wave = homogeneous_exit_wave(phase[None].double(), 0.05)
    batch = subject.collate([frame(weak, intensity=hologram(wave, 0.02)[0].numpy())], 0.0)
    channels, scalars = subject.context(batch)
    found = channels[0, 1] * scalars[0, 0].exp()
    assert float(torch.corrcoef(torch.stack([found.flatten(), phase.flatten()]))[0, 1]) > 0.99
    assert float(found[28:36, 28:36].mean()) == pytest.approx(-0.05, rel=0.1)


def test_frames_of_several_tiles_are_drawn_whole(subject):
    torch.manual_seed(0)
    network = subject.network()
    wide = np.ones((96, 200)) + 0.01 * np.random.default_rng(0).normal(size=(96, 200))
    batch = subject.collate([frame(intensity=wide)], 0.0)
    assert subject.latents(batch) == 96 * 200
    noise = torch.randn(1, 3, 1 + 96 * 200, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        draws, log_q = network(*subject.context(batch), subject.anchors(batch)).draw(noise)
    assert draws.theta.shape == (3, 96 * 200)
    assert torch.isnan(log_q).all()
    assert subject.evaluate(draws, batch).predicted.shape == (3, 96, 200)
    density = subject.density(draws, subject.evaluate(draws, batch).nuisance)
    assert density.shape == (3, 96, 200)
    assert subject.density_of(batch, 0).shape == (96, 200)


def test_units_follow_what_is_known(subject):
    geometry = HologramGeometry(0.01, 0.0, pixel_size_m=5e-8, wavelength_m=1e-10, photons=1e4)
    known, unknown = (subject.collate([frame(g)], 0.0) for g in (geometry, GEOMETRY))
    draws = Draws(torch.zeros(1).long(), disc().view(1, -1), torch.zeros(1).long())
    phase = subject.density(draws, subject.evaluate(draws, unknown).nuisance)
    electrons = subject.density(draws, subject.evaluate(draws, known).nuisance)
    assert subject.density_of(unknown, 0).units == "rad"
    assert subject.density_of(known, 0).units == "e/angstrom^2"
    torch.testing.assert_close(phase[0], disc())
    torch.testing.assert_close(electrons, projected_density(disc()[None], 1.0))
    axis = subject.density_of(known, 0).axes[1]
    assert (axis.name, axis.units) == ("x", "m")
    assert axis.values[-1] == pytest.approx(63 * 5e-8)


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
