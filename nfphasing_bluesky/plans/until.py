"""Stop when certain: an exposure or a scan that ends once an interval of the posterior is narrow enough."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.plans.listening import Latest, Listening, Source


@dataclass(frozen=True)
class Measured:
    """How a measurement ended.

    Args:
        points: that were measured.
        certain: whether the interval was narrow enough when it ended.
        latest: the last posterior; None where there was none.
    """

    points: int
    certain: bool
    latest: Latest | None


def measure_until(
    detectors: Sequence[Any],
    quantity: str,
    tolerance: float,
    source: Source,
    *,
    motor: Any = None,
    places: Sequence[float] = (),
    at_most: int = 1000,
    patience_s: float = 2.0,
    in_a_row: int = 2,
) -> Generator[Any, Any, Measured]:
    """Plan stub: measure until a quantity is known to within +- tolerance (95 %), or all is measured.

    Without a motor it repeats the exposure: let the run's frames add up (`nfphasing={"accumulate": True}`).
    With one it goes through the places: let them make a curve (`nfphasing={"points": {...}}`). It never stops
    on a posterior whose verdict is ALARM.

    Args:
        detectors: to be read at each point.
        quantity: parameter of the model, as `thickness_1_angstrom`.
        tolerance: half of the interval's width, in the quantity's unit.
        source: the callback that reconstructs this run.
        motor: what to move; None to stay.
        places: where to.
        at_most: exposures without a motor.
        patience_s: how long to wait at each point for the posterior that knows it; 0 never waits.
        in_a_row: how many posteriors, one after the other, must be narrow enough.

    Raises:
        SettingsError: a tolerance that is not positive, no places for the motor, an unknown quantity.
    """
    if not tolerance > 0 or (motor is not None and not len(places)) or in_a_row < 1:
        raise SettingsError(
            f"tolerance={tolerance}, {len(places)} places for motor {getattr(motor, 'name', None)}, "
            f"in_a_row={in_a_row}, expected a positive tolerance, places to go to, and at least 1"
        )
    steps: Iterator[float | None] = repeat(None, at_most) if motor is None else iter(places)
    points = narrow = seen = 0
    latest: Latest | None = None
    readable = list(detectors) if motor is None else [*detectors, motor]
    with Listening(source) as heard:
        for place in steps:
            if place is not None:
                yield from bps.mv(motor, place)
            yield from bps.trigger_and_read(readable)
            points += 1
            yield from heard.settle(patience_s)
            latest = heard.latest()
            if latest is None or latest.result.seq_num == seen:
                continue
            seen = latest.result.seq_num
            good = latest.trusted and latest.half_width(quantity) <= tolerance
            narrow = narrow + 1 if good else 0
            if narrow >= in_a_row:
                return Measured(points, True, latest)
    return Measured(points, False, latest)


def scan_until(
    detectors: Sequence[Any],
    motor: Any,
    places: Sequence[float],
    quantity: str,
    tolerance: float,
    source: Source,
    *,
    md: Mapping[str, Any] | None = None,
    patience_s: float = 2.0,
    in_a_row: int = 2,
) -> Generator[Any, Any, Measured]:
    """Plan: a run that scans a motor until a quantity is known; see `measure_until`.

    Args:
        detectors: to be read at each point.
        motor: what to move.
        places: where to.
        quantity: parameter of the model.
        tolerance: half of the interval's width, in the quantity's unit.
        source: the callback that reconstructs this run.
        md: metadata of the run, with `nfphasing={"points": {...}}`.
        patience_s: how long to wait at each point for the posterior that knows it.
        in_a_row: how many posteriors, one after the other, must be narrow enough.
    """
    metadata = {
        "plan_name": "scan_until",
        "detectors": [detector.name for detector in detectors],
        "motors": [motor.name],
        "num_points": len(places),
        "quantity": quantity,
        "tolerance": tolerance,
        **(md or {}),
    }

    until = measure_until(
        detectors,
        quantity,
        tolerance,
        source,
        motor=motor,
        places=places,
        patience_s=patience_s,
        in_a_row=in_a_row,
    )
    return (yield from within_run(until, [*detectors, motor], metadata))


def within_run(
    plan: Generator[Any, Any, Measured], devices: Sequence[Any], metadata: Mapping[str, Any]
) -> Generator[Any, Any, Measured]:
    """Plan: stage devices, run a plan inside a run, and return what it returns, not the run's uid."""
    ended: list[Measured] = []

    def kept() -> Generator[Any, Any, None]:
        ended.append((yield from plan))

    yield from bpp.stage_wrapper(bpp.run_wrapper(kept(), md=dict(metadata)), list(devices))
    return ended[0]
