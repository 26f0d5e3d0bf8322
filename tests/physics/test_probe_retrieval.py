"""Probes from frames alone, against the one that made them."""

import math

import pytest
import torch

from nfphasing_bluesky.core import FrameError, GeometryError
from nfphasing_bluesky.physics.imaging.probe_retrieval import (
    check_overlap,
    orthogonal,
    retrieve_probe,
    scan_step,
    starts,
    with_further_modes,
)
from nfphasing_bluesky.physics.ptychography import FarField, wave_intensity
from tests.simulated_scan import FAR, NEAR, SIDE, beam, likeness, places, simulate


@pytest.fixture(scope="module")
def scan():
    return simulate()


@pytest.fixture(scope="module")
def found(scan):
    told = []
    probe = retrieve_probe(scan.exposures, FAR, torch.Generator().manual_seed(0), after=told.append)
    assert told == sorted(told) and 0 < told[0] < told[-1] <= 1
    return probe


def test_the_probe_that_made_the_frames(scan, found):
    assert likeness(found.probe[0], scan.probe[0]) > 0.98
    assert likeness(found.probe[0].conj(), scan.probe[0]) < 0.7
    assert float(found.share[0]) > 0.9 and found.misfit < 2
    light = wave_intensity(found.probe)
    assert float(light.sum()) == pytest.approx(float(scan.exposures.counts.sum((1, 2)).mean()), rel=0.15)


def test_its_modes_are_orthogonal_and_it_lies_in_the_middle(found):
    flat = found.probe.flatten(1)
    products = flat @ flat.mH
    off = products - torch.diag(products.diagonal())
    assert float(off.abs().max()) < 0.02 * float(products.abs().max())
    light = wave_intensity(found.probe)
    place = torch.arange(SIDE, dtype=light.dtype)
    assert float((light.sum(1) * place).sum() / light.sum()) == pytest.approx(SIDE / 2, abs=2)


def test_a_seed_repeats(scan):
    few = scan.exposures._replace(
        counts=scan.exposures.counts[:12], position=scan.exposures.position[:12], mask=scan.exposures.mask
    )
    twice = [retrieve_probe(few, FAR, torch.Generator().manual_seed(4)).probe for _ in range(2)]
    assert torch.equal(*twice)


def test_starts_have_the_photons_and_the_mean_frame(scan):
    mean = scan.exposures.counts.mean(0)
    for propagation in (FAR, NEAR, FarField(centred=False)):
        probes = starts(scan.exposures, propagation)
        assert len(probes) == (1 if propagation is NEAR else 10)
        for probe in probes:
            detector = wave_intensity(propagation.forward(probe[None]))[0]
            torch.testing.assert_close(detector, mean, rtol=1e-3, atol=1e-2 * float(mean.max()))


def test_modes_keep_the_light_they_had():
    one = beam()
    modes = with_further_modes(one, 3)
    assert modes.shape == (3, SIDE, SIDE)
    light = wave_intensity(modes[:, None]).sum((1, 2))
    assert float(light[0] / light.sum()) > 0.9 and float(light[2]) > 0.01 * float(light[0])
    mixed = orthogonal(torch.einsum("ij,jhw->ihw", torch.randn(3, 3, dtype=one.dtype), modes))
    flat = mixed.flatten(1)
    assert float((flat @ flat.mH).fill_diagonal_(0).abs().max()) < 1e-3 * float(light.sum())


def test_steps_and_what_cannot_be(scan):
    assert scan_step(places(step=6.0)) == pytest.approx(6, rel=0.2)
    check_overlap(scan.exposures.position, (SIDE, SIDE))
    with pytest.raises(GeometryError, match="pixels away"):
        check_overlap(scan.exposures.position * 10, (SIDE, SIDE))
    few = scan.exposures._replace(counts=scan.exposures.counts[:3], position=scan.exposures.position[:3])
    with pytest.raises(FrameError, match="3 frames to retrieve"):
        retrieve_probe(few, FAR, torch.Generator())
    dark = scan.exposures._replace(counts=torch.zeros_like(scan.exposures.counts))
    with pytest.raises(FrameError, match="no photons"):
        retrieve_probe(dark, FAR, torch.Generator())
    assert math.isfinite(scan_step(places()))
