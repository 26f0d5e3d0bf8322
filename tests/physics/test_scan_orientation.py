"""Scans that lie as they say, scans that do not, and scans that cannot tell."""

import pytest
import torch

from nfphasing_bluesky.core.orientation import ORIENTATIONS, Orientation
from nfphasing_bluesky.physics.scan_orientation import (
    PRESENT,
    Candidate,
    check_orientation,
    check_with_unknown_probe,
    turn_exposures,
)
from tests.simulated_scan import FAR, NEAR, simulate

WRONG = [
    Candidate(of, turn)
    for of in ("frames", "positions")
    for turn in ORIENTATIONS.values()
    if turn != Orientation()
]
FIELDS = {"far": FAR, "near": NEAR}


@pytest.fixture(scope="module")
def scans():
    return {name: simulate(field) for name, field in FIELDS.items()}


@pytest.mark.parametrize("field", FIELDS)
def test_a_scan_that_lies_as_it_says(scans, field):
    scan = scans[field]
    found = check_orientation(scan.exposures, scan.probe, FIELDS[field])
    assert not found.better and not found.undecided and found.best == found.misfit


@pytest.mark.parametrize("wrong", WRONG, ids=lambda c: f"{c.of}-{c.turn.name}")
def test_each_wrong_orientation_is_named(scans, wrong):
    scan = scans["far"]
    found = check_orientation(turn_exposures(scan.exposures, wrong, FAR), scan.probe, FAR)
    (better,) = found.better
    assert better.of == wrong.of and wrong.turn.then(better.turn) == Orientation()
    assert found.best < 0.6 * found.misfit and not found.undecided


@pytest.mark.parametrize("wrong", [WRONG[3], WRONG[7]], ids=lambda c: f"{c.of}-{c.turn.name}")
def test_in_the_near_field_too(scans, wrong):
    scan = scans["near"]
    (better,) = check_orientation(turn_exposures(scan.exposures, wrong, NEAR), scan.probe, NEAR).better
    assert better.of == wrong.of and wrong.turn.then(better.turn) == Orientation()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_weak_object_is_not_accused(field, seed):
    scan = simulate(FIELDS[field], strength=0.01, photons=1e4, seed=seed)
    found = check_orientation(scan.exposures, scan.probe, FIELDS[field])
    assert not found.better
    assert {c.turn.name for c in found.undecided if c.of == "positions"} == set(ORIENTATIONS) - {"as-is"}


def test_one_line_does_not_say_where_the_next_one_lies(scans):
    scan = scans["far"]
    line = scan.exposures.position[:, 0] < 9
    some = scan.exposures._replace(
        counts=scan.exposures.counts[line], position=scan.exposures.position[line] * torch.tensor([0.0, 1.0])
    )
    found = check_orientation(some, scan.probe, FAR)
    assert not found.better and Candidate("positions", ORIENTATIONS["flip-rows"]) in found.undecided
    assert Candidate("positions", ORIENTATIONS["flip-columns"]) not in found.undecided


def test_frames_that_are_not_square_are_not_transposed(scans):
    scan = scans["far"]
    cut = scan.exposures._replace(counts=scan.exposures.counts[:, 4:-4], mask=scan.exposures.mask[4:-4])
    found = check_orientation(cut, scan.probe[:, 4:-4], FAR)
    assert PRESENT not in found.better
    assert not any(c.of == "frames" and c.turn.transpose for c in (*found.better, *found.undecided))


@pytest.mark.parametrize("name", ["as-is", "flip-columns"])
def test_without_a_probe(scans, name):
    wrong = Candidate("frames", ORIENTATIONS[name])
    found = check_with_unknown_probe(turn_exposures(scans["far"].exposures, wrong, FAR), FAR)
    half = ORIENTATIONS["rotate-180"]
    undone = {wrong.turn.then(c.turn) for c in found.better}
    assert undone == (set() if name == "as-is" else {Orientation(), half})
