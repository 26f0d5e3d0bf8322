"""Scans on disk that lack a probe, or of which frames and positions do not go together."""

import logging

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import FrameError, GeometryError
from nfphasing_bluesky.core.orientation import ORIENTATIONS
from nfphasing_bluesky.storage.readers import read_frames
from tests.simulated_scan import likeness, simulate


@pytest.fixture(scope="module")
def scan():
    return simulate()


def write(path, scan, **changes):
    counts, _, places = (part.numpy() for part in scan.exposures)
    arrays = {"data": counts, "positions_px": places, "probe": scan.probe.numpy(), "centred": 1}
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_a_probe_from_the_first_frames(scan, tmp_path, caplog):
    path = write(tmp_path / "scan.npz", scan, probe=None)
    with pytest.raises(FrameError, match="--probe retrieve to find it from the first frames"):
        read_frames(path)
    with caplog.at_level(logging.WARNING):
        frames = read_frames(path, probe="retrieve", check=True)
    assert len(frames) == 49 and not any(frame.doubt for frame in frames)
    assert "retrieved from the first 49 frames with light: modes 9" in caplog.text
    probe = frames[0].geometry.probe
    assert likeness(torch.from_numpy(probe[0]), scan.probe[0]) > 0.98
    assert all(frame.geometry.probe is probe for frame in frames)


def test_too_few_frames_for_a_probe(scan, tmp_path):
    few = scan._replace(exposures=scan.exposures._replace(counts=scan.exposures.counts[:5]))
    places = scan.exposures.position[:5].numpy()
    with pytest.raises(FrameError, match="5 frames to retrieve the probe from, expected 9 or more"):
        read_frames(write(tmp_path / "s.npz", few, positions_px=places), probe="retrieve")


def test_a_scan_that_lies_as_it_says(scan, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        frames = read_frames(write(tmp_path / "s.npz", scan), check=True)
    assert not any(frame.doubt for frame in frames) and "together" not in caplog.text


@pytest.mark.parametrize("name", ["flip-columns", "rotate-90"])
def test_turned_frames_are_named_and_turned_back(scan, tmp_path, caplog, name):
    stored = ORIENTATIONS[name].image(scan.exposures.counts.numpy(), centre=24)
    mask = np.zeros((48, 48), bool)
    mask[2, 30] = True
    path = write(tmp_path / "s.npz", scan, data=stored, mask=ORIENTATIONS[name].image(mask, centre=24))
    with caplog.at_level(logging.WARNING):
        frames = read_frames(path, check=True)
    back = "rotate-270" if name == "rotate-90" else name
    assert f"--orientation {back}," in caplog.text and "do not go together" in caplog.text
    assert all(f"'orientation': '{back}'" in frame.doubt for frame in frames)
    good = read_frames(path, check=True, orientation=back)
    assert not any(frame.doubt for frame in good)
    np.testing.assert_array_equal(good[7].mask, mask)
    np.testing.assert_array_equal(good[7].intensity, np.where(mask, 0, scan.exposures.counts[7].numpy()))


def test_detectors_turn_about_the_middle_of_their_array(scan, tmp_path):
    counts = scan.exposures.counts.numpy()
    doubt = read_frames(write(tmp_path / "s.npz", scan, data=counts[:, :, ::-1]), check=True)[0].doubt
    assert "--orientation flip-columns," in doubt and doubt.count("--") == 1
    assert "+0 rows and +1 columns off its pixel, moved back by +0 and -1 (numpy.roll of the turned" in doubt
    doubt = read_frames(write(tmp_path / "s.npz", scan, data=np.roll(counts, 1, 1)), check=True)[0].doubt
    assert "direct beam, +1 rows and +0 columns off its pixel" in doubt and "--" not in doubt


def test_where_no_orientation_fits_none_is_proposed(scan, tmp_path, caplog):
    other = scan.probe.numpy()[:, :, ::-1].conj() * np.exp(1j * np.linspace(0, 40, 48) ** 2)
    with caplog.at_level(logging.WARNING):
        frames = read_frames(write(tmp_path / "s.npz", scan, probe=other), check=True)
    assert not frames[0].doubt
    assert "no orientation fits: 20 frames that overlap have a misfit of" in caplog.text
    assert "--orientation" not in caplog.text


def test_two_of_the_equals_are_named(tmp_path, caplog):
    weak = simulate(strength=0.01, photons=1e4)
    with caplog.at_level(logging.WARNING):
        read_frames(write(tmp_path / "s.npz", weak), check=True)
    assert "20 frames that overlap fit as well with signs" in caplog.text and ", or 5 more" in caplog.text
    assert caplog.text.count("--positions-sign") == 2


def test_wrong_positions_are_named_on_top_of_what_is_done(scan, tmp_path):
    places = scan.exposures.position.numpy()
    # the file has x and y, with the wrong sign of y, and another wrong one is asked for
    path = write(tmp_path / "s.npz", scan, positions_px=places[:, ::-1] * [1, -1], positions_sign=-1)
    doubt = read_frames(path, check=True)[0].doubt
    assert "--positions-sign=-1,1 --positions-order xy" in doubt and "'positions_order': 'xy'" in doubt
    frames = read_frames(path, check=True, positions_sign=(-1.0, 1.0), positions_order="xy")
    assert not frames[0].doubt
    np.testing.assert_allclose([frame.place for frame in frames], places)


def test_lengths_are_exchanged_before_they_are_divided(scan, tmp_path):
    places = scan.exposures.position.numpy()
    optics = {"wavelength_m": 1e-10, "distance_m": 1.0, "pixel_size_m": 1e-4}
    metres = places[:, ::-1] * 1e-10 / (48 * 1e-4)
    path = write(tmp_path / "s.npz", scan, positions_px=None, positions_m=metres, **optics)
    frames = read_frames(path, positions_order="xy")
    np.testing.assert_allclose([frame.place for frame in frames], places, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"orientation": "upside-down"}, {"positions_order": "zyx"}])
def test_unknown_words(scan, tmp_path, changes):
    with pytest.raises(GeometryError, match="expected"):
        read_frames(write(tmp_path / "s.npz", scan), **changes)


def test_a_gap_through_the_middle_that_nobody_masked(scan, tmp_path, caplog):
    counts = scan.exposures.counts.numpy().copy()
    counts[:, :, 22:25] = 0
    with caplog.at_level(logging.WARNING):
        frames = read_frames(write(tmp_path / "s.npz", scan, data=counts), check=True)
    assert "columns 22 to 24 never count" in caplog.text and "pass --mask" in caplog.text
    assert frames[0].mask[:, 22:25].all() and frames[0].usable.sum() == 48 * 45
    assert not frames[0].doubt


def test_a_place_far_outside_of_the_object_fails_alone(scan, tmp_path):
    places = scan.exposures.position.numpy().copy()
    places[7] = [1e7, 3.0]
    # a frame that overlaps with none is no error if it is near
    places[8] = places[0] - 60
    failures = []
    path = write(tmp_path / "s.npz", scan, positions_px=places)
    frames = read_frames(path, check=True, on_failure=failures.append)
    assert [f.origin.seq_num for f in failures] == [8] and len(frames) == 48
    assert "far outside" in failures[0].reason and "1e+07" in failures[0].reason
    with pytest.raises(GeometryError, match="far outside"):
        read_frames(path)
