"""What the first frames of measured scans say: their probe, and that frames lie as positions say."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core.orientation import ORIENTATIONS
from nfphasing_bluesky.physics.imaging.probe_retrieval import RetrievalSettings, retrieve_probe
from nfphasing_bluesky.physics.imaging.whole_scan import Exposures, Sweeps, sweep_scan
from nfphasing_bluesky.physics.ptychography import FarField, NearField, fourier_shift
from nfphasing_bluesky.storage.readers import read_frames
from tests.scan_alignment import aligned, correlations
from tests.simulated_scan import best_match, likeness

FAR = FarField(centred=False)
TURNS = [name for name in ORIENTATIONS if name != "as-is"]


@pytest.fixture(scope="module")
def star(shared_data):
    """(counts, positions, reference modes, reference object, corners in it) of the Siemens star."""
    folder = shared_data / "ptychography/siemens_star_aps"
    stored, reference = (
        np.load(folder / name) for name in ("siemens_star_small.npz", "reference_ptychi_lsqml.npz")
    )
    image = reference["object"]
    corners = reference["positions_px_centred"] + [n // 2 - 64 for n in image.shape]
    # their Fourier transform is not normalised
    return stored["data"], stored["scan"].astype(float), 128 * reference["probe"], image, corners


@pytest.mark.slow
def test_the_star_s_probe_from_its_first_frames(star):
    counts, positions, modes, image, corners = star
    count = 60
    mask = torch.zeros(128, 128, dtype=torch.bool)
    first = Exposures(torch.from_numpy(counts[:count]), mask, torch.from_numpy(positions[:count]))
    settings = RetrievalSettings(together=20)
    found = retrieve_probe(first, FAR, torch.Generator().manual_seed(0), settings)
    alike, shift = best_match(found.probe[0], torch.from_numpy(modes[0]))
    assert alike > 0.85 and found.misfit < 1.2 and 0.8 < float(found.share[0]) < 0.95
    # plain sweeps with it through frames that it was not found from
    inner = slice(205, -205)
    centres = corners + 64
    near = ((centres > 175) & (centres < np.array(image.shape) - 175)).all(1)
    near[:count] = False
    there = Exposures(torch.from_numpy(counts[near]), mask, torch.from_numpy(corners[near]))
    whole = sweep_scan(there, found.probe, FAR, Sweeps(4), torch.Generator().manual_seed(0))
    truth = image[inner, inner]
    # the object has moved with the probe
    top, left = (205 - by - int(o) for by, o in zip(shift, whole.origin, strict=True))
    part = whole.image.numpy()[top : top + truth.shape[0], left : left + truth.shape[1]]
    phase, _ = correlations(aligned(part, truth), truth)
    assert phase > 0.9, phase


def test_near_field_probe_of_p25(shared_data):
    folder = shared_data / "holography/p25_nearfield_siemens"
    stored, reference = np.load(folder / "p25_nearfield.npz"), np.load(folder / "reference_cdtools.npz")
    first = Exposures(
        torch.from_numpy(stored["data"][:60]).float(),
        torch.from_numpy(stored["mask_good"] == 0),
        torch.from_numpy(stored["reference_pixel_positions_yx"][:60]),
    )
    field = NearField(float(stored["fresnel_number_pixel"]))
    found = retrieve_probe(first, field, torch.Generator().manual_seed(0), RetrievalSettings(together=30))
    assert likeness(found.probe[0], torch.from_numpy(reference["probe"])) > 0.9


def test_positions_of_p25_are_refined_to_those_of_cdtools(shared_data):
    folder = shared_data / "holography/p25_nearfield_siemens"
    stored, reference = np.load(folder / "p25_nearfield.npz"), np.load(folder / "reference_cdtools.npz")
    position = torch.from_numpy(stored["reference_pixel_positions_yx"])
    scan = Exposures(
        torch.from_numpy(stored["data"]).float(), torch.from_numpy(stored["mask_good"] == 0), position
    )
    field = NearField(float(stored["fresnel_number_pixel"]))
    probe = 1.41**0.5 * torch.from_numpy(reference["probe"])[None]
    inner = slice(52, 159), slice(97, 165)
    truth, found = reference["object"][inner], {}
    for name, how in (("nominal", {}), ("refined", {"positions_from": 2, "background": True})):
        whole = sweep_scan(scan, probe, field, Sweeps(12, batch=4, **how), torch.Generator().manual_seed(0))
        found[name] = best_phase_correlation_of(whole, truth, inner), float(whole.misfit.median())
    assert found["nominal"][0] > 0.8 and found["refined"][0] > 0.92
    assert found["refined"][1] < 0.2 * found["nominal"][1]


def best_phase_correlation_of(whole, truth, inner):
    """The mean of all positions is free, and so is a shift of the object by a pixel or its fraction."""
    best, (top, left) = 0.0, whole.origin.tolist()
    for down in np.arange(-1, 1.1, 0.5):
        for right in np.arange(-1, 1.1, 0.5):
            moved = fourier_shift(whole.image[None], torch.tensor([[down, right]]).float())[0].numpy()
            part = moved[inner[0].start - top : inner[0].stop - top, inner[1].start - left :]
            part = part[:, : truth.shape[1]]
            best = max(best, correlations(aligned(part, truth), truth)[0])
    return best


def doubt(tmp_path, counts, positions, modes, **reading):
    path = tmp_path / "star.npz"
    np.savez(path, data=counts, positions_px=positions, probe=modes, centred=0)
    return read_frames(path, check=True, **reading)[0].doubt


@pytest.fixture(scope="module")
def middle(star):
    counts, positions, modes, *_ = star
    near = np.argsort(np.square(positions - [-60, 60]).sum(1))[:24]
    return counts[near], positions[near], modes


def test_the_star_lies_as_it_says(middle, tmp_path):
    assert not doubt(tmp_path, *middle)


@pytest.mark.parametrize("name", TURNS)
def test_turned_frames_of_the_star_are_named(middle, tmp_path, name):
    counts, positions, modes = middle
    back = next(n for n, t in ORIENTATIONS.items() if ORIENTATIONS[name].then(t) == ORIENTATIONS["as-is"])
    said = doubt(tmp_path, ORIENTATIONS[name].image(counts, centre=0), positions, modes)
    assert f"--orientation {back}," in said and said.count("--orientation") == 1
    assert "--positions" not in said
