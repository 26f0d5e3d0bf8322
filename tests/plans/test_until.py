"""Plans that stop when certain, on simulated detectors, with posteriors known in closed form."""

import itertools

import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynSignal

from nfphasing_bluesky.core import ReconstructionSettings, SettingsError
from nfphasing_bluesky.plans import information, measure_until, scan_until, scan_where_it_tells_most
from nfphasing_bluesky.streaming.callback import ReconstructionCallback
from tests.straight_line import StraightLine

POINTS = {"intensity": "det", "q": "place", "sigma": "error", "units": "1/angstrom", "first": 4}
PLACES = np.linspace(0.01, 1.0, 60)
SIGMA = 0.5


@pytest.fixture
def engine():
    return RunEngine({})


@pytest.fixture
def callback():
    """Reconstructs straight lines through points, in a thread."""
    made = ReconstructionCallback(
        "line",
        worker="thread",
        reconstruction=ReconstructionSettings(n_samples=4000),
        load=lambda model, device, settings: StraightLine(settings),
    )
    yield made
    made.close()


@pytest.fixture
def parts():
    """A motor, and a detector of the line 3 + 20 q with its error."""
    rng = np.random.default_rng(0)
    motor = SynAxis(name="place")

    def line() -> float:
        return float(3 + 20 * motor.position + SIGMA * rng.normal())

    return motor, [SynSignal(func=line, name="det"), SynSignal(func=lambda: SIGMA, name="error")]


def metadata(**more) -> dict:
    return {"nfphasing": {"points": POINTS | more}}


def result_of(engine, plan):
    """Run a plan; returns what it returned."""
    found = []

    def kept():
        found.append((yield from plan))

    engine(kept())
    return found[0]


def width_of_all(places) -> float:
    """Half of the 95 % interval of the slope once all places are measured."""
    design = np.stack([np.ones_like(places), places], 1) / SIGMA
    return 1.96 * float(np.sqrt(np.linalg.inv(design.T @ design)[1, 1]))


def test_a_scan_ends_when_the_slope_is_known(engine, callback, parts):
    motor, detectors = parts
    engine.subscribe(callback)
    tolerance = 2 * width_of_all(PLACES)
    order = np.random.default_rng(1).permutation(PLACES)
    plan = scan_until(detectors, motor, order, "slope", tolerance, callback, md=metadata(), patience_s=30)
    done = result_of(engine, plan)
    assert done.certain and done.points < 0.7 * len(PLACES)
    assert done.latest is not None and done.latest.half_width("slope") <= tolerance
    # one point less would not have done
    assert width_of_all(order[: done.points]) <= 1.1 * tolerance
    assert width_of_all(order[: done.points - 4]) > 0.95 * tolerance
    assert callback.ledger().received == done.points - POINTS["first"] + 1


def test_the_next_place_is_where_it_tells_most(engine, callback, parts):
    motor, detectors = parts
    engine.subscribe(callback)
    tolerance = 2 * width_of_all(PLACES)

    def noise(places, predicted):
        return np.full(places.size, SIGMA)

    spent = {}
    in_order = scan_until(
        detectors, motor, PLACES, "slope", tolerance, callback, md=metadata(), patience_s=30
    )
    spent["in order"] = result_of(engine, in_order)
    adaptive = scan_where_it_tells_most(
        detectors,
        motor,
        PLACES,
        "slope",
        tolerance,
        callback,
        noise,
        begin=4,
        patience_s=30,
        md=metadata(planned=PLACES.tolist()),
    )
    spent["adaptive"] = result_of(engine, adaptive)
    assert all(done.certain for done in spent.values())
    # a slope is known best from both ends
    assert spent["adaptive"].points < 0.5 * spent["in order"].points


def test_an_exposure_is_repeated_until_the_offset_is_known(engine, callback):
    class Curve(SynSignal):
        def describe(self):
            return {name: {**key, "units": "1/angstrom"} for name, key in super().describe().items()}

    rng = np.random.default_rng(2)
    q = np.linspace(0.1, 1.0, 20)
    detectors = [
        SynSignal(func=lambda: 3 + 20 * q + SIGMA * rng.normal(size=q.size), name="saxs"),
        Curve(func=lambda: q, name="saxs_q"),
        SynSignal(func=lambda: np.full(q.size, SIGMA), name="saxs_sigma"),
    ]
    engine.subscribe(callback)
    tolerance = width_of_all(q) / 3

    def plan():
        import bluesky.plan_stubs as bps

        yield from bps.open_run(md={"nfphasing": {"accumulate": True}})
        done = yield from measure_until(detectors, "slope", tolerance, callback, at_most=40, patience_s=30)
        yield from bps.close_run()
        return done

    done = result_of(engine, plan())
    assert done.certain and 9 <= done.points <= 13


def test_all_is_measured_where_it_never_is_certain(engine, callback, parts):
    motor, detectors = parts
    engine.subscribe(callback)
    plan = scan_until(detectors, motor, PLACES[:8], "slope", 1e-6, callback, md=metadata(), patience_s=30)
    done = result_of(engine, plan)
    assert not done.certain and done.points == 8


def test_a_posterior_that_is_not_trusted_never_ends_a_scan(engine, parts):
    motor, detectors = parts
    alarming = ReconstructionCallback(
        "line", worker="thread", load=lambda m, d, settings: StraightLine(settings, verdict="ALARM")
    )
    engine.subscribe(alarming)
    plan = scan_until(detectors, motor, PLACES[:10], "slope", 1e6, alarming, md=metadata())
    done = result_of(engine, plan)
    alarming.close()
    assert not done.certain and done.points == 10


def lines(**how) -> ReconstructionCallback:
    """Reconstructs straight lines in a thread, as `StraightLine` is told."""
    return ReconstructionCallback(
        "line", worker="thread", load=lambda model, device, settings: StraightLine(settings, **how)
    )


def test_a_quantity_that_few_draws_have_is_not_known(engine, parts):
    motor, detectors = parts
    for known, certain in ((0.5, False), (0.99, True)):
        source = lines(known=known)
        engine.subscribe(source)
        plan = scan_until(detectors, motor, PLACES[:10], "slope", 1e6, source, md=metadata(), patience_s=30)
        done = result_of(engine, plan)
        source.close()
        assert done.certain is certain
        assert np.isinf(done.latest.half_width("slope")) is np.bool_(not certain)


def adaptive(parts, source, places=PLACES, **more):
    def noise(where, predicted):
        return np.full(where.size, SIGMA)

    motor, detectors = parts
    asked = {"tolerance": 1e-6, "begin": 4, "patience_s": 30, "md": metadata()} | more
    return scan_where_it_tells_most(detectors, motor, places, "slope", source=source, noise=noise, **asked)


def test_one_posterior_is_not_two_in_a_row(engine, parts):
    source = lines(silent=5)
    engine.subscribe(source)
    done = result_of(engine, adaptive(parts, source, PLACES[:9], tolerance=1e6))
    source.close()
    assert done.points == 9 and not done.certain


def test_the_places_are_planned_without_being_said(engine, callback, parts):
    starts = []
    engine.subscribe(callback)
    engine.subscribe(lambda name, doc: starts.append(doc), "start")
    done = result_of(engine, adaptive(parts, callback, tolerance=2 * width_of_all(PLACES)))
    assert starts[0]["nfphasing"]["points"]["planned"] == PLACES.tolist()
    assert done.certain and done.points < 30 and done.latest.result.band.shape == (3, PLACES.size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"md": metadata(planned=[0.1, 0.2])}, "planned has 2 places.*leave it out"),
        ({"tolerance": 0.0}, "positive tolerance"),
        ({"in_a_row": 0}, "at least 1"),
    ],
)
def test_an_adaptive_scan_that_cannot_be_is_refused_before_it_begins(parts, callback, changes, message):
    with pytest.raises(SettingsError, match=message):
        next(adaptive(parts, callback, **changes))


@pytest.mark.parametrize("changes", [{"tolerance": 0.0}, {"places": []}, {"quantity": "height"}])
def test_what_cannot_be_reached_is_refused(engine, callback, parts, changes):
    motor, detectors = parts
    engine.subscribe(callback)
    asked = {"places": PLACES, "quantity": "slope", "tolerance": 1.0} | changes
    with pytest.raises(SettingsError, match="expected"):
        engine(scan_until(detectors, motor, source=callback, md=metadata(), **asked))


def test_information_of_a_gaussian():
    sigma, spread = np.array([1.0, 2.0, 1e3]), 3.0
    band = np.array([[0.0] * 3, [-1.96 * spread] * 3, [1.96 * spread] * 3])
    expected = [0.5 * np.log(10), 0.5 * np.log(1 + 9 / 4), 0.5 * np.log1p(9e-6)]
    np.testing.assert_allclose(information(band, sigma), expected)
    assert all(a > b for a, b in itertools.pairwise(information(band, sigma)))
