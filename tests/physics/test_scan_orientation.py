"""Scans that lie as they say, scans that do not, and scans that cannot tell."""

import numpy as np
import pytest
import torch

from nfphasing_bluesky.core.orientation import ORIENTATIONS, Orientation
from nfphasing_bluesky.physics.imaging.scan_orientation import (
    PRESENT,
    Candidate,
    beam_offset,
    check_orientation,
    check_with_unknown_probe,
    turn_exposures,
)
from nfphasing_bluesky.physics.ptychography import FarField
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


TURNED = {
    "rot90": (lambda v: np.rot90(v, 1, (-2, -1)), "rotate-270", (0, 1)),
    "fliplr": (lambda v: v[..., ::-1], "flip-columns", (0, 1)),
    "upside down": (lambda v: v[..., ::-1, ::-1], "rotate-180", (1, 1)),
    "beam off": (lambda v: np.roll(v, (1, -2), (-2, -1)), "as-is", (1, -2)),
}


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("centred", [True, False])
def test_frames_turned_about_the_middle_of_their_array_are_named(scans, name, centred):
    turn, back, beam = TURNED[name]
    scan = scans["far"]
    counts = scan.exposures.counts.numpy()
    counts = turn(counts if centred else np.fft.ifftshift(counts, axes=(-2, -1))).copy()
    wrong = scan.exposures._replace(counts=torch.from_numpy(counts))
    found = check_orientation(wrong, scan.probe, FarField(centred))
    assert found.better == (Candidate("frames", ORIENTATIONS[back], beam),)
    assert found.best < 0.3 * found.misfit


def test_positions_are_named_beside_a_beam_that_is_off(scans):
    scan = scans["far"]
    wrong = turn_exposures(scan.exposures, Candidate("positions", ORIENTATIONS["flip-rows"], (1, 0)), FAR)
    (better,) = check_orientation(wrong, scan.probe, FAR).better
    assert better == Candidate("positions", ORIENTATIONS["flip-rows"], (-1, 0))


def test_a_mask_does_not_move_the_beam(scans):
    scan = scans["far"]
    mask = scan.exposures.mask.clone()
    mask[:, 26:30] = True
    gap = scan.exposures._replace(counts=scan.exposures.counts * ~mask, mask=mask)
    assert beam_offset(gap, scan.probe, FAR) == (0, 0)
    moved = turn_exposures(gap, Candidate("frames", Orientation(), (3, 5)), FAR)
    assert beam_offset(moved, scan.probe, FAR) == (-3, -5)


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
