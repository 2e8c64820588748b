"""Texts kept in little memory are the texts that were given."""

from hypothesis import given
from hypothesis import strategies as st

from workers.sources.texts import Texts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@given(TEXTS, TEXTS)
def test_texts_are_those_of_a_list(first, second):
    kept, expected = Texts(first), first + second
    kept.extend(second)
    assert list(kept) == expected
    assert kept == expected
    assert [kept[place] for place in range(-len(expected), len(expected))] == expected * 2
    assert kept[1:-1] == expected[1:-1]
    assert kept != [*expected, "x"]
    assert (kept == ["x"] * len(expected)) == (expected == ["x"] * len(expected))
