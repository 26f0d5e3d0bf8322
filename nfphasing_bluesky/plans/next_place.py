"""Measure next where it tells most: the place at which draws of the posterior disagree beyond the noise.

The information that a point is expected to bring about all parameters together is that between it and the
draws, for a Gaussian spread of predictions 0.5 log(1 + spread^2 / sigma^2) (D. V. Lindley, Ann. Math. Stat.
27, 986 (1956)); places are those planned, which the frame holds as masked points, so that the posterior
predicts them.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from numpy.typing import NDArray

from nfphasing_bluesky.core import SettingsError
from nfphasing_bluesky.plans.listening import Latest, Listening, Source
from nfphasing_bluesky.plans.until import Measured, within_run

Noise = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def information(band: NDArray[np.floating], sigma: NDArray[np.floating]) -> NDArray[np.float64]:
    """(Q,) nats that a measurement of each point is expected to bring.

    Args:
        band: (3, Q) mean and ends of the central 95 % of the predictions.
        sigma: (Q,) standard deviation that the measurement will have.
    """
    spread = (np.asarray(band[2], np.float64) - band[1]) / (2 * 1.96)
    return 0.5 * np.log1p((spread / sigma) ** 2)


def scan_where_it_tells_most(
    detectors: Sequence[Any],
    motor: Any,
    places: Sequence[float],
    quantity: str,
    tolerance: float,
    source: Source,
    noise: Noise,
    *,
    begin: int = 12,
    md: Mapping[str, Any] | None = None,
    patience_s: float = 5.0,
    in_a_row: int = 2,
) -> Generator[Any, Any, Measured]:
    """Plan: a run that measures planned places in the order of what they tell, until a quantity is known.

    It begins with some places spread over all of them. Where no posterior comes in time, it takes the place
    farthest from those measured.

    Args:
        detectors: to be read at each point.
        motor: what to move.
        places: increasing; they become the run's `nfphasing.points.planned`.
        quantity: parameter of the model.
        tolerance: half of the interval's width, in the quantity's unit.
        source: the callback that reconstructs this run.
        noise: places and predicted intensities to the standard deviation that a point will have.
        begin: places before the first choice, as many as the frame needs.
        md: metadata of the run.
        patience_s: how long to wait at each point for the posterior that knows it.
        in_a_row: how many posteriors, one after the other, must be narrow enough.

    Raises:
        SettingsError: places that do not increase, or fewer than `begin`; a tolerance that is not positive;
            other places planned in the metadata; an unknown quantity.
    """
    where = np.asarray(places, dtype=np.float64)
    if where.size < begin or begin < 2 or np.any(np.diff(where) <= 0):
        raise SettingsError(f"{where.size} places, expected at least begin={begin} >= 2, increasing")
    if not tolerance > 0 or in_a_row < 1:
        raise SettingsError(
            f"tolerance={tolerance}, in_a_row={in_a_row}, expected a positive tolerance, and at least 1"
        )
    metadata = {
        "plan_name": "scan_where_it_tells_most",
        "detectors": [detector.name for detector in detectors],
        "motors": [motor.name],
        "num_points": where.size,
        "quantity": quantity,
        "tolerance": tolerance,
        **_planned(md or {}, where),
    }

    def inner() -> Generator[Any, Any, Measured]:
        left = np.ones(where.size, bool)
        queue = [int(i) for i in np.unique(np.linspace(0, where.size - 1, begin).round())]
        narrow = points = seen = 0
        latest: Latest | None = None
        with Listening(source) as heard:
            while left.any():
                index = queue.pop(0) if queue else _next(where, left, latest, noise)
                left[index] = False
                yield from bps.mv(motor, where[index])
                yield from bps.trigger_and_read([*detectors, motor])
                points += 1
                if queue:
                    continue
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

    return (yield from within_run(inner(), [*detectors, motor], metadata))


def _planned(md: Mapping[str, Any], where: NDArray[np.float64]) -> dict[str, Any]:
    """Metadata whose points are planned at the places; raises SettingsError where others are."""
    own = md.get("nfphasing", {})
    if "points" not in own:
        return dict(md)
    said = np.sort(np.asarray(own["points"].get("planned", where), dtype=np.float64).ravel())
    if said.shape != where.shape or not np.allclose(said, where):
        raise SettingsError(
            f"nfphasing.points.planned has {said.size} places, expected the {where.size} of the scan: one "
            "is chosen by what is predicted there; leave it out, it is filled in"
        )
    points = {**own["points"], "planned": where.tolist()}
    return {**md, "nfphasing": {**own, "points": points}}


def _next(where: NDArray[np.float64], left: NDArray[np.bool_], latest: Latest | None, noise: Noise) -> int:
    """Return the index of the place to measure next."""
    band = None if latest is None else latest.result.band
    if band is None or band.shape[1] != where.size:
        away = np.abs(where[:, None] - where[~left]).min(1)
        return int(np.where(left, away, -1.0).argmax())
    gain = information(band, noise(where, np.asarray(band[0], np.float64)))
    return int(np.where(left, np.nan_to_num(gain), -1.0).argmax())
