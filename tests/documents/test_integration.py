"""Azimuthal integration: RAW's own reduction of a measured frame, and analytic patterns with known noise."""

from dataclasses import replace

import fabio
import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, DetectorGeometry, Frame, FrameError, GeometryError, Origin
from nfphasing_bluesky.documents.integration import (
    _integrator,
    detector_geometry_from_poni,
    integrate,
    mean_curve,
    subtract,
)
from nfphasing_bluesky.storage.readers import read_frames
from tests.indirect_transform import indirect_transform

PIXEL_M = 172e-6
PILATUS = DetectorGeometry(
    wavelength_m=1.245e-10,
    distance_m=1.5027,
    pixel_size_m=(PIXEL_M, PIXEL_M),
    poni_m=(97.0 * PIXEL_M, -0.2 * PIXEL_M),
)
RAW_SCALE = 0.00071363632818 * 259139 / 39391
"""Absolute scale over normalised diode counts, from the header of the reference curve."""

SQUARE = DetectorGeometry(
    wavelength_m=1e-10, distance_m=2.0, pixel_size_m=(PIXEL_M, PIXEL_M), poni_m=(100 * PIXEL_M, 100 * PIXEL_M)
)


@pytest.fixture(scope="module")
def measured(shared_data):
    folder = shared_data / "saxs2d" / "glucose_isomerase_pilatus_chess_g1"
    with fabio.open(str(folder / "GI2_A9_19_001_0000.tiff")) as image:
        counts = image.data[:, ::-1].copy()
    q, intensity, sigma = np.loadtxt(folder / "reference_1d_GI2_A9_19_001_0000.dat").T
    return counts, q, intensity, sigma


def on_raws_bins(counts, q, geometry=PILATUS, **options):
    """Integrate into the bins of the reference, whose first one is the 18th from q = 0."""
    step = np.diff(q).mean()
    curve = integrate(Frame(counts, geometry), npt=491, q_range_inv_angstrom=(0, 491 * step), **options)
    index = np.searchsorted(curve.geometry.q_inv_angstrom, q[0] - step / 2)
    return curve, slice(index, index + q.size)


def test_agrees_with_raws_reduction_of_a_measured_frame(measured):
    counts, q, intensity, sigma = measured
    curve, part = on_raws_bins(counts, q, normalisation=1 / RAW_SCALE)
    np.testing.assert_allclose(curve.geometry.q_inv_angstrom[part], q, atol=1e-7)
    beyond_beam_stop = q > 0.035  # 60 pixels; RAW's own beam-stop mask is not part of the data set
    ours, errors = curve.intensity[part][beyond_beam_stop], curve.sigma[part][beyond_beam_stop]
    off = np.abs(ours / intensity[beyond_beam_stop] - 1)
    off_sigma = np.abs(errors / sigma[beyond_beam_stop] - 1)
    pull = (ours - intensity[beyond_beam_stop]) / sigma[beyond_beam_stop]
    assert np.median(off) < 1e-6, "bins without masked pixels must agree"
    assert off_sigma.max() < 0.01, "RAW counts an empty pixel as variance 1, which is 1 % of sigma here"
    assert np.mean(off < 1e-5) > 0.97, f"only {np.mean(off < 1e-5):.1%} of the bins agree to 1e-5"
    assert np.sqrt(np.mean(pull**2)) < 0.5
    assert np.corrcoef(np.log(ours), np.log(intensity[beyond_beam_stop]))[0, 1] > 0.999


def test_flipping_frame_and_geometry_together_changes_nothing(measured):
    counts, q, _, _ = measured
    flipped, _ = on_raws_bins(counts, q)
    as_stored = replace(PILATUS, poni_m=(97.0 * PIXEL_M, (487 + 0.2) * PIXEL_M))
    stored, _ = on_raws_bins(counts[:, ::-1], q, as_stored)
    same = np.isclose(stored.intensity, flipped.intensity, rtol=1e-4)
    assert same.mean() > 0.99, "pixels on a bin edge may change sides, no more"


def radial_pattern(q):
    return 200 * np.exp(-((q / 0.03) ** 2)) + 2


def q_of_pixels(geometry, shape):
    rows, columns = np.indices(shape)
    radius = np.hypot(
        (rows + 0.5) * geometry.pixel_size_m[0] - geometry.poni_m[0],
        (columns + 0.5) * geometry.pixel_size_m[1] - geometry.poni_m[1],
    )
    theta = 0.5 * np.arctan(radius / geometry.distance_m)
    return 4 * np.pi * np.sin(theta) / (geometry.wavelength_m * 1e10)


def expected_counts(shape=(220, 180)):
    q = q_of_pixels(SQUARE, shape)
    two_theta = 2 * np.arcsin(q * SQUARE.wavelength_m * 1e10 / (4 * np.pi))
    return radial_pattern(q) * np.cos(two_theta) ** 3


@pytest.mark.parametrize(("dose", "bias"), [(1.0, 0.04), (0.03, 0.15)])
def test_poisson_errors_describe_the_scatter_about_a_known_pattern(dose, bias):
    """`bias` is what counting statistics allow: the mean of (N - n)/sqrt(N) is -1/(2 sqrt(n))."""
    expected = dose * expected_counts()
    truth = integrate(Frame(expected, SQUARE), npt=120).intensity
    rng = np.random.default_rng(3)
    pulls = []
    for _ in range(100):
        curve = integrate(Frame(rng.poisson(expected), SQUARE), npt=120)
        pulls.append((curve.intensity - truth) / curve.sigma)
    pulls = np.array(pulls)[:, 2:-20]
    assert -bias < pulls.mean() <= 0.01
    assert abs(pulls.std() - 1) < 0.03
    neighbours = np.corrcoef(pulls[:, :-1].ravel(), pulls[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02, "bins must be independent"


def test_curve_follows_the_known_radial_function_with_the_solid_angle_taken_out():
    curve = integrate(Frame(expected_counts(), SQUARE), npt=400)
    q = curve.geometry.q_inv_angstrom
    relative = curve.intensity / radial_pattern(q) - 1
    assert np.abs(relative[5:-5]).max() < 0.02, "bins of half a pixel, so within the slope of half a bin"
    assert abs(np.mean(relative[5:-5])) < 1e-3


def test_masked_negative_and_nan_pixels_do_not_reach_the_curve():
    clean = expected_counts()
    spoilt = clean.copy()
    spoilt[10:20] = -1
    spoilt[30] = np.nan
    spoilt[40:50, 5] = 1e6
    spoilt[60, 60] = 1e6
    frame_mask = np.zeros(clean.shape, bool)
    frame_mask[40:50, 5] = True
    mask = np.zeros(clean.shape, bool)
    mask[60, 60] = True
    everything = mask | frame_mask
    everything[10:20] = everything[30] = True
    ours = integrate(Frame(spoilt, SQUARE, mask=frame_mask), npt=100, mask=mask)
    reference = integrate(Frame(clean, SQUARE), npt=100, mask=everything)
    np.testing.assert_allclose(ours.intensity, reference.intensity, rtol=1e-6)
    np.testing.assert_allclose(ours.sigma, reference.sigma, rtol=1e-6)
    full = integrate(Frame(clean, SQUARE), npt=100)
    assert np.all(ours.sigma >= full.sigma * (1 - 1e-6)) and ours.sigma.sum() > 1.004 * full.sigma.sum()


def test_rings_without_pixels_are_dropped_and_rings_without_counts_are_not():
    counts = np.zeros((220, 180))
    radius = np.hypot(*(np.indices(counts.shape) + 0.5 - 100))
    mask = (radius > 30) & (radius < 50)
    counts[radius >= 50] = 4
    curve = integrate(Frame(counts, SQUARE, mask=mask), npt=60)
    full = integrate(Frame(counts, SQUARE), npt=60)
    assert curve.intensity.size < full.intensity.size == 60
    empty = curve.intensity == 0
    assert empty.any() and np.all(curve.sigma > 0) and curve.usable.all()
    pixels_within = np.count_nonzero(radius <= 30)
    assert np.sum(1 / curve.sigma[empty]) == pytest.approx(pixels_within, rel=0.1), "one count over n pixels"


def test_normalisation_divides_intensity_and_sigma_also_where_no_count_fell():
    counts = np.random.default_rng(0).poisson(0.01, (220, 180))
    plain = integrate(Frame(counts, SQUARE), npt=100)
    halved = integrate(Frame(counts, SQUARE), npt=100, normalisation=2.0)
    assert (plain.intensity == 0).any()
    np.testing.assert_allclose(halved.intensity, plain.intensity / 2, rtol=1e-6)
    np.testing.assert_allclose(halved.sigma, plain.sigma / 2, rtol=1e-6)


def test_given_sigma_is_propagated_in_place_of_poisson():
    counts = expected_counts()
    poisson = integrate(Frame(counts, SQUARE), npt=50)
    given = integrate(Frame(counts, SQUARE, sigma=3 * np.sqrt(counts)), npt=50)
    np.testing.assert_allclose(given.sigma, 3 * poisson.sigma, rtol=1e-5)


def test_tables_are_reused_for_frames_and_masks_of_one_geometry():
    _integrator.cache_clear()
    for k in range(5):
        mask = np.zeros((220, 180), bool)
        mask[k] = True
        integrate(Frame(expected_counts(), SQUARE, mask=mask), npt=50)
    integrate(Frame(expected_counts(), SQUARE), npt=60)
    info = _integrator.cache_info()
    assert (info.misses, info.hits) == (2, 4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"mask": np.zeros((3, 3), bool)}, FrameError, "does not match frame"),
        ({"mask": np.ones((220, 180), bool)}, FrameError, "every pixel is masked"),
        ({"normalisation": 0.0}, FrameError, "normalisation"),
        ({"q_range_inv_angstrom": (5.0, 6.0)}, FrameError, "rings hold usable pixels"),
    ],
)
def test_refuses_with_the_frame_named(change, error, words):
    frame = Frame(expected_counts(), SQUARE, origin=Origin(label="pilatus_image"))
    with pytest.raises(error, match=f"pilatus_image: .*{words}"):
        integrate(frame, npt=50, **change)


def curve(q, intensity, sigma, label="curve"):
    return Frame(intensity, CurveGeometry(q), sigma=sigma, origin=Origin(label=label))


def test_subtraction_scales_the_buffer_and_propagates_both_errors():
    q = np.linspace(0.01, 0.1, 50)
    result = subtract(curve(q, q + 5, 0.3 + 0 * q), curve(q, 0 * q + 2, 0.2 + 0 * q), scale=2.0)
    np.testing.assert_allclose(result.intensity, q + 1)
    np.testing.assert_allclose(result.sigma, 0.5)


def test_subtraction_leaves_out_points_of_one_curve_only_and_refuses_other_grids():
    q = np.linspace(0.01, 0.1, 50)
    sample, fewer = (
        curve(q, q, q, "sample"),
        curve(np.delete(q, [3, 4]), *2 * [np.delete(q, [3, 4])], "buffer"),
    )
    result = subtract(sample, fewer)
    np.testing.assert_array_equal(result.geometry.q_inv_angstrom, np.delete(q, [3, 4]))
    np.testing.assert_array_equal(result.intensity, 0)
    with pytest.raises(GeometryError, match="buffer: q grid .* shares 0 points with that of sample"):
        subtract(sample, curve(q + 0.0005, q, q, "buffer"))
    with pytest.raises(FrameError, match="sigma is missing"):
        subtract(sample, Frame(q, CurveGeometry(q)))
    with pytest.raises(GeometryError, match="integrate"):
        subtract(Frame(np.ones((3, 3)), SQUARE), sample)


def test_a_curve_is_not_integrated():
    q = np.linspace(0.01, 0.1, 50)
    with pytest.raises(GeometryError, match="curves are used as they are"):
        integrate(curve(q, q, q))


def test_the_mean_of_several_buffers_is_taken_with_its_error():
    q = np.linspace(0.01, 0.1, 50)
    one, other = curve(q, np.full(50, 3.0), np.full(50, 0.3)), curve(q, np.full(50, 5.0), np.full(50, 0.4))
    mean = mean_curve([one, replace(other, mask=q > 0.09)])
    np.testing.assert_allclose(mean.intensity, 4.0)
    np.testing.assert_allclose(mean.sigma, 0.25)
    np.testing.assert_array_equal(mean.mask, q > 0.09)
    with pytest.raises(GeometryError, match="differs from that of the first"):
        mean_curve([one, curve(2 * q, q, q)])
    with pytest.raises(FrameError, match="no curve"):
        mean_curve([])


PONI = """# written for a test
poni_version: 2.1
Detector: Detector
Detector_config: {"pixel1": 0.000172, "pixel2": 0.000172, "max_shape": [195, 487], "orientation": 3}
Distance: 1.5027
Poni1: 0.016684
Poni2: -3.44e-05
Rot1: 0.01
Rot2: -0.02
Rot3: 0.0
Wavelength: 1.245e-10
"""


def test_poni_file_gives_the_geometry(tmp_path):
    path = tmp_path / "detector.poni"
    path.write_text(PONI)
    geometry = detector_geometry_from_poni(path)
    poni_m, rotations_rad = (0.016684, -3.44e-05), (0.01, -0.02, 0.0)
    pixel_m, shape = (172e-6, 172e-6), (195, 487)
    assert geometry == DetectorGeometry(1.245e-10, 1.5027, pixel_m, poni_m, rotations_rad, shape)
    any_size = PONI.replace("[195, 487]", "null")
    path.write_text(any_size)
    assert detector_geometry_from_poni(path).shape is None


def test_a_poni_file_of_another_detector_or_binning_is_refused(tmp_path):
    path = tmp_path / "detector.poni"
    path.write_text(PONI)
    geometry = detector_geometry_from_poni(path)
    Frame(np.ones((195, 487)), geometry)
    for shape in ((487, 195), (97, 243), (100, 487)):
        with pytest.raises(FrameError, match=r"expected \(195, 487\), that of the detector"):
            Frame(np.ones(shape), geometry)
    named = PONI.replace("Detector: Detector", "Detector: Pilatus1M")
    path.write_text(named.replace(PONI[PONI.index("{") : PONI.index("}") + 1], "{}"))
    assert detector_geometry_from_poni(path).shape == (1043, 981)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wavelength_m": 1.0}, "1 angstrom are 1e-10 m"),
        ({"distance_m": 1500.0}, "1500 mm are 1.5 m"),
        ({"pixel_size_m": (172.0, 172.0)}, "172 um are 0.000172 m"),
        ({"poni_m": (np.nan, 0.1)}, "expected finite numbers"),
    ],
)
def test_lengths_in_other_units_are_refused(change, words):
    with pytest.raises(GeometryError, match=words):
        replace(PILATUS, **change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PONI.replace("Wavelength", "# Wavelength"), "no Wavelength"),
        (PONI.replace('"orientation": 3', '"orientation": 2'), "orientation 2"),
        ("not a poni file", "pyFAI"),
        (PONI.replace("Distance: 1.5027", "Distance: far"), "pyFAI"),
        (None, "no such PONI file"),
    ],
)
def test_unusable_poni_files_are_named(tmp_path, text, words):
    path = tmp_path / "broken.poni"
    if text is not None:
        path.write_text(text)
    with pytest.raises(GeometryError, match=f"broken.poni: .*{words}"):
        detector_geometry_from_poni(path)


def test_one_raw_frame_less_its_buffer_gives_the_proteins_size(shared_data):
    """GNOM finds Rg = 33.36(11) A in the average of all frames; one second must agree with it."""
    folder = shared_data / "saxs2d" / "glucose_isomerase_pilatus_chess_g1"
    as_stored = replace(PILATUS, poni_m=(97.0 * PIXEL_M, (487 + 0.2) * PIXEL_M))
    (frame,) = read_frames(folder / "GI2_A9_19_001_0000.tiff", geometry=as_stored)
    (buffer,) = read_frames(folder / "buffer_1d_GIbuf2_A9_18_001_0000.dat")
    q = buffer.geometry.q_inv_angstrom
    step = np.diff(q).mean()
    shadow = np.zeros(frame.intensity.shape, bool)
    shadow[:, -14:] = True  # the beam stop hides the columns next to the beam
    sample = integrate(
        frame,
        npt=q.size,
        mask=shadow,
        normalisation=1 / RAW_SCALE,
        q_range_inv_angstrom=(q[0] - step / 2, q[0] + step * (q.size - 0.5)),
    )
    posterior, _ = indirect_transform(subtract(sample, buffer), d_max_angstrom=101.0)
    rg = posterior.summary()["rg_angstrom"]
    assert abs(rg.median - 33.36) < 2.5 * rg.std and rg.std < 1.0, rg
    assert 0.85 < posterior.trust.reduced_chi2 < 1.2


@pytest.mark.parametrize(("poni", "rings"), [((0.0, 0.0), 50), ((15.0, 20.0), 25), ((-30.0, 0.0), 43)])
def test_default_bins_are_as_wide_as_a_pixel(poni, rings):
    """A detector of 30 x 40 pixels, seen from its corner, from its middle and from 30 pixels beside it."""
    geometry = replace(SQUARE, poni_m=(poni[0] * PIXEL_M, poni[1] * PIXEL_M))
    curve = integrate(Frame(np.ones((30, 40)), geometry))
    width = np.median(np.diff(curve.geometry.q_inv_angstrom))
    one_pixel = 2 * np.pi / (geometry.wavelength_m * 1e10) * PIXEL_M / geometry.distance_m
    assert rings - 3 <= curve.intensity.size <= rings + 1
    assert width == pytest.approx(one_pixel, rel=0.06)
