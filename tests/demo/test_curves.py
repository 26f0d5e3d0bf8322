import numpy as np
import pytest

from nfphasing_bluesky.core import StorageError
from nfphasing_bluesky.demo import curves as demo_curves
from nfphasing_bluesky.demo.curves import GLUCOSE_ISOMERASE, SOURCES, measured_curves, repeated


def guinier_radius(frame, q_max):
    """Weighted straight line through ln I over q^2."""
    q = frame.geometry.q_inv_angstrom
    use = frame.usable & (q < q_max) & (frame.intensity > 0)
    weight = frame.intensity[use] / frame.sigma[use]
    slope, _ = np.polyfit(q[use] ** 2, np.log(frame.intensity[use]), 1, w=weight)
    return np.sqrt(-3 * slope)


def test_every_curve_is_measured_with_sigma_inside_the_models_range(tmp_path, caplog):
    frames = measured_curves(tmp_path)
    assert not caplog.records, "a session that begins with warnings of its own data"
    assert [f.origin.label for f in frames] == [s.label for s in SOURCES]
    for frame in frames:
        q = frame.geometry.q_inv_angstrom
        assert q[0] >= 0.005 and q[-1] <= 0.5 and frame.usable.sum() > 100
        assert (frame.intensity[frame.usable] / frame.sigma[frame.usable]).max() > 10


def test_apoferritin_is_the_hollow_sphere_it_is_known_to_be(tmp_path):
    """Radii 40 and 60 angstrom: the first minimum of its curve is where the shell's is."""
    frame = next(f for f in measured_curves(tmp_path) if f.origin.label == "apoferritin")
    q = frame.geometry.q_inv_angstrom
    around = (q > 0.03) & (q < 0.1)

    def amplitude(radius):
        x = q * radius
        return radius**3 * (np.sin(x) - x * np.cos(x)) / x**3

    smooth = np.convolve(frame.intensity, np.ones(5) / 5, "same")
    measured = q[around][np.argmin(smooth[around])]
    expected = q[around][np.argmin((amplitude(60.0) - amplitude(40.0))[around] ** 2)]
    assert measured == pytest.approx(expected, rel=0.05)


def test_glucose_isomerase_comes_last_and_has_gnoms_radius(shared_data):
    *_, frame = measured_curves(shared_data)
    assert frame.origin.label == GLUCOSE_ISOMERASE and frame.intensity.size == 474
    assert guinier_radius(frame, 1.2 / 33.36) == pytest.approx(33.36, rel=0.03)


def test_the_default_finds_data_beside_the_checkout(shared_data):
    assert measured_curves()[-1].origin.label == GLUCOSE_ISOMERASE


def test_every_curve_is_repeated_equally_often():
    assert [repeated([None] * n, 8) for n in (1, 4, 5, 8, 9)] == [8, 8, 10, 8, 9]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(demo_curves, "find_spec", lambda name: None)
    with pytest.raises(StorageError, match="sasdata is not installed.*pip install sasdata"):
        measured_curves()
