"""The eight orientations: numpy's turns, their group, and the pixel that stays."""

import numpy as np
import pytest

from nfphasing_bluesky.core import GeometryError
from nfphasing_bluesky.core.orientation import ORIENTATIONS, Orientation, read_orientation

IMAGE = np.arange(12.0).reshape(3, 4)
KNOWN = {
    "as-is": lambda x: x,
    "flip-rows": np.flipud,
    "flip-columns": np.fliplr,
    "rotate-180": lambda x: np.rot90(x, 2),
    "transpose": np.transpose,
    "rotate-90": np.rot90,
    "rotate-270": lambda x: np.rot90(x, -1),
    "antitranspose": lambda x: np.rot90(x, 2).T,
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_as_numpy_turns(name):
    turn = read_orientation(name, "here")
    np.testing.assert_array_equal(turn.image(IMAGE), KNOWN[name](IMAGE))
    np.testing.assert_array_equal(turn.image(np.stack([IMAGE, -IMAGE]))[1], -KNOWN[name](IMAGE))
    assert turn.name == name


@pytest.mark.parametrize("first", ORIENTATIONS.values())
@pytest.mark.parametrize("second", ORIENTATIONS.values())
def test_one_after_the_other(first, second):
    both = first.then(second)
    np.testing.assert_array_equal(both.image(IMAGE), second.image(first.image(IMAGE)))
    places = np.array([[1.0, 2.0], [-3.0, 5.0]])
    np.testing.assert_array_equal(both.places(places), second.places(first.places(places)))


@pytest.mark.parametrize("turn", ORIENTATIONS.values())
@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("middle", [False, True])
def test_the_direct_beam_stays_and_a_pattern_turns_with_its_object(turn, side, middle):
    generator = np.random.default_rng(0)
    wave = generator.normal(size=(side, side)) + 1j * generator.normal(size=(side, side))
    shift = np.fft.fftshift if middle else np.asarray

    def pattern(field):
        return shift(np.abs(np.fft.fft2(field)))

    centre = side // 2 if middle else 0
    turned = turn.image(pattern(wave), centre=centre)
    assert turned[centre, centre] == pattern(wave)[centre, centre]
    np.testing.assert_allclose(turned, pattern(turn.image(wave)), atol=1e-12)


def test_another_name_is_refused():
    with pytest.raises(GeometryError, match="orientation='upside-down', expected one of as-is, flip-rows"):
        read_orientation("upside-down", "here")
    assert read_orientation("as-is", "here") == Orientation()
