"""The demo's theta scan: the curve that grows from its events is that of the film."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core import Frame, SettingsError
from nfphasing_bluesky.demo import reflectometer, subjects
from nfphasing_bluesky.modalities import Draws, modality
from nfphasing_bluesky.modalities.layers.layer_prior import NAMES, QUANTITIES, columns


@pytest.fixture(scope="module")
def frames(tmp_path_factory, scanned) -> list[Frame]:
    return scanned(subjects.subject("reflectivity", tmp_path_factory.mktemp("film")))


def test_the_curve_grows_point_by_point(frames):
    assert len(frames) == subjects.SCAN_POINTS - 11
    assert [int(frame.usable.sum()) for frame in frames] == list(range(12, subjects.SCAN_POINTS + 1))
    # points ahead are there, masked, for the posterior to predict
    assert {frame.intensity.size for frame in frames} == {subjects.SCAN_POINTS}


def test_the_film_explains_the_curve(frames):
    subject = modality("reflectivity")
    batch = subject.collate(frames[-1:], 0.0)
    lower, upper = batch.lower[0].double(), batch.upper[0].double()
    known = reflectometer.FILM | {
        "q_offset_inv_angstrom": 0.0,
        "footprint_q_inv_angstrom": 0.003,
        "absorption_1_cubic_angstrom_per_e": 0.01,
        "substrate_absorption_cubic_angstrom_per_e": 0.01,
    }
    places = []
    for column in columns(1):
        quantity = QUANTITIES[column]
        value = quantity.coordinate(known[NAMES[column]])
        places.append(float((value - lower[column]) / (upper[column] - lower[column])))
    theta = torch.zeros(1, subject.width, dtype=torch.float64)
    theta[0, : len(places)] = torch.tensor(places)
    draws = Draws(torch.ones(1, dtype=torch.long), theta, torch.zeros(1, dtype=torch.long))
    predicted = subject.evaluate(draws, batch).predicted
    assert float(subject.reduced_chi2(batch, predicted)[0]) == pytest.approx(1.0, abs=0.4)


def test_attenuators_keep_the_counter_below_its_limit():
    angle = reflectometer.Angle(name="theta")
    counter = reflectometer.SimulatedReflectometer("counter", angle)
    for place in (0.15, 1.0, 2.5):
        angle.set(place).wait(1)
        counter.trigger().wait(1)
        counts, share = counter.counts.get(), counter.transmission.get()
        assert counts < 1.1 * reflectometer.MOST_COUNTS
        expected = 1e9 * float(reflectometer.reflected(np.array([place]))[0])
        assert counts / share == pytest.approx(expected, abs=6 * np.sqrt(expected / share))
    with pytest.raises(SettingsError, match="photons=0"):
        reflectometer.SimulatedReflectometer("counter", angle, photons=0)
