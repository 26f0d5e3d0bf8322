"""The demo's grid scan: what its documents say is what was simulated."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import StreamSettings
from nfphasing_bluesky.demo import scan, subjects
from nfphasing_bluesky.modalities.imaging import patterns
from nfphasing_bluesky.storage.ptychography import beam_of


@pytest.fixture(scope="module")
def frames(tmp_path_factory, scanned):
    """Frames of the scan, from its documents."""
    shown = subjects.subject("ptychography", tmp_path_factory.mktemp("scan"))
    settings = StreamSettings(probe=shown.stream.probe, data_key=shown.data_key)
    return scanned(shown, settings, beam=beam_of(settings))


def test_places_are_those_of_the_grid(frames):
    assert len(frames) == scan.STEPS**2
    grid = scan.STEP_PX * np.stack(np.meshgrid(*(np.arange(scan.STEPS),) * 2, indexing="ij"), -1).reshape(
        -1, 2
    )
    places = np.array([frame.place for frame in frames])
    np.testing.assert_allclose(places - places[0], grid, atol=1e-6)
    assert frames[0].geometry.pixel_size_m == scan.PIXEL_M


def test_frames_are_counts_behind_the_probe(frames):
    light = np.square(np.abs(frames[0].geometry.probe)).sum()
    assert light == pytest.approx(scan.PHOTONS, rel=1e-3)
    counts = np.array([frame.intensity.sum() for frame in frames])
    # the object absorbs up to a fifth of the intensity
    assert (counts > 0.75 * scan.PHOTONS).all() and (counts < 1.01 * scan.PHOTONS).all()
    batch = patterns.collate(frames[12:13], 0)
    assert torch.isfinite(batch.channels).all()
    assert float(batch.light.sum()) == pytest.approx(scan.PHOTONS, rel=0.01)
