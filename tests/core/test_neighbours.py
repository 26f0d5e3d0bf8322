"""The nearest earlier frames of a run, and the nearest of a whole scan."""

import numpy as np
import pytest

from nfphasing_bluesky.core import CurveGeometry, Frame, Origin, PtychographyGeometry, SettingsError
from nfphasing_bluesky.core.neighbours import Neighbours, with_neighbours

PROBE = np.ones((1, 8, 10), np.complex64)


def frame(number, place, counts=3.0, shape=(8, 10)):
    geometry = PtychographyGeometry(PROBE, place)
    return Frame(np.full(shape, counts + number), geometry, origin=Origin(seq_num=number))


def numbers(one):
    return [neighbour.origin.seq_num for neighbour in one.neighbours]


def test_only_earlier_frames_the_nearest_first():
    keeper = Neighbours(2)
    places = [(0, 0), (0, 3), (0, 5), (0, 4)]
    found = [numbers(keeper.attach(frame(i + 1, place))) for i, place in enumerate(places)]
    assert found == [[], [1], [2, 1], [2, 3]]


def test_of_equally_near_frames_the_earlier_goes_first():
    keeper = Neighbours(1)
    for i, place in enumerate([(0, 2), (0, -2), (2, 0)]):
        keeper.attach(frame(i + 1, place))
    assert numbers(keeper.attach(frame(4, (0, 0)))) == [1]


def test_frames_that_do_not_overlap_are_no_neighbours():
    keeper = Neighbours(4)
    keeper.attach(frame(1, (0, 0)))
    assert numbers(keeper.attach(frame(2, (8, 0)))) == []
    assert numbers(keeper.attach(frame(3, (1, 9.5)))) == [1, 2]


def test_neighbours_carry_no_neighbours_and_are_what_was_measured():
    keeper = Neighbours(3)
    first = Frame(
        np.arange(80.0).reshape(8, 10) + 0.1, PtychographyGeometry(PROBE, (0, 0)), mask=np.eye(8, 10) > 0
    )
    keeper.attach(first)
    keeper.attach(frame(2, (1, 1)))
    third = keeper.attach(frame(3, (1, 2)))
    assert len(third.neighbours) == 2 and not any(n.neighbours for n in third.neighbours)
    np.testing.assert_allclose(third.neighbours[1].intensity, first.intensity, rtol=1e-7)
    np.testing.assert_array_equal(third.neighbours[1].mask, first.mask)
    assert third.neighbours[1].geometry is first.geometry


def test_the_oldest_are_forgotten():
    keeper = Neighbours(8, limit=2)
    for i in range(4):
        keeper.attach(frame(i + 1, (0, 0)))
    assert numbers(keeper.attach(frame(5, (0, 0)))) == [3, 4]


def test_dark_frames_are_nobodys_neighbours():
    keeper = Neighbours(8)
    keeper.attach(frame(0, (0, 0), counts=0.0))
    assert numbers(keeper.attach(frame(2, (0, 0)))) == []
    scan = [frame(0, (0, 0), counts=0.0), frame(1, (0, 0)), frame(2, (0, 1))]
    assert [numbers(one) for one in with_neighbours(scan, 2)] == [[1, 2], [2], [1]]


def test_a_whole_scan_has_all_others():
    scan = [frame(i + 1, (0, 3 * i)) for i in range(6)]
    found = with_neighbours(scan, 2)
    assert [numbers(one) for one in found] == [[2, 3], [1, 3], [2, 4], [3, 5], [4, 6], [5, 4]]
    again = with_neighbours(found, 2)
    assert [numbers(one) for one in again] == [numbers(one) for one in found]
    assert not any(n.neighbours for one in again for n in one.neighbours)


def test_frames_on_their_own_are_left_alone():
    q = np.linspace(0.01, 0.1, 5)
    curve = Frame(np.ones(5), CurveGeometry(q))
    assert Neighbours(3).attach(curve) is curve
    assert with_neighbours([curve], 3) == [curve]
    with pytest.raises(SettingsError):
        Neighbours(-1)
