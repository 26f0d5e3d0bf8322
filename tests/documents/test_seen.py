from hypothesis import given
from hypothesis import strategies as st

from nfphasing_bluesky.documents.seen import Seen, in_words

NUMBERS = st.lists(st.integers(1, 40), max_size=40)


@given(NUMBERS, st.integers(0, 45))
def test_it_is_a_set_of_numbers_and_the_gaps_are_its_complement(numbers, up_to):
    seen = Seen()
    seen.add(numbers)
    top = max([up_to, *numbers])
    assert [n for n in range(1, 50) if n in seen] == sorted(set(numbers))
    gaps = seen.missing(up_to)
    assert [n for gap in gaps for n in gap] == [n for n in range(1, top + 1) if n not in set(numbers)]
    assert all(a.stop < b.start for a, b in zip(gaps, gaps[1:], strict=False))


def test_a_million_numbers_in_order_are_one_interval():
    seen = Seen()
    seen.add(range(1, 1_000_001))
    assert len(seen._firsts) == 1 and seen.missing() == ()


def test_gaps_in_words():
    assert in_words([range(3, 4), range(7, 10)]) == "3, 7 to 9"
    assert in_words([range(2 * i, 2 * i + 1) for i in range(1, 9)]) == "2, 4, 6, 8, 10 and 3 more"
    assert in_words([]) == ""
