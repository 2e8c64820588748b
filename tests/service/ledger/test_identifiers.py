"""One form of an id for ingest and requests."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger import identifiers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jos\u00e9", "jose\u0301"),
        ("p1", "p1 "),
        ("p1", "\u00a0p1\u2003\t"),
        ("a b", " a b\r\n"),
        ("\uac00", "\u1100\u1161"),
    ],
)
def test_forms_of_one_id_are_normalised_alike(one: str, other: str) -> None:
    assert identifiers.normalise(one) == identifiers.normalise(other) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a@x.org", "A@X.org"),
        ("stra\u00dfe", "STRASSE"),
        ("\u03c3", "\u03c2"),
        ("\u00c9", "e\u0301"),
    ],
)
def test_case_is_folded_only_where_the_source_says_so(one: str, other: str) -> None:
    assert identifiers.normalise(one) != identifiers.normalise(other)
    folded = {identifiers.normalise(text, fold_case=True) for text in (one, other)}
    assert len(folded) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p1", "P1"),
        ("p1", "\uff501"),
        ("\ufb01n", "fin"),
        ("a b", "a\u00a0b"),
        ("ab", "a\u200bb"),
        ("\ufeffab", "ab"),
        ("ab\ufe0f", "ab"),
        ("a\u034fb", "ab"),
        ("a\u3164b", "ab"),
        ("\u2800ab", "ab"),
        ("ab\x7f", "ab"),
        ("a b", "a  b"),
        ("a b", "a\tb"),
        ("a b", "a\u2003\u200bb"),
    ],
)
def test_ids_that_look_alike_share_a_key(one: str, other: str) -> None:
    assert identifiers.normalise(one) != identifiers.normalise(other)
    assert identifiers.lookalike(one) == identifiers.lookalike(other)


@pytest.mark.parametrize(("one", "other"), [("p1", "p2"), ("a", "\u00e4"), ("1", "01"), ("l", "1")])
def test_different_ids_do_not_look_alike(one: str, other: str) -> None:
    assert identifiers.lookalike(one) != identifiers.lookalike(other)


@given(st.text(), st.booleans())
def test_a_normalised_id_is_normalised_already(text: str, fold: bool) -> None:
    once = identifiers.normalise(text, fold_case=fold)
    assert identifiers.normalise(once, fold_case=fold) == once
    assert unicodedata.is_normalized("NFC", once)


@given(st.text())
def test_every_form_of_an_id_looks_like_it(text: str) -> None:
    key = identifiers.lookalike(text)
    assert identifiers.lookalike(identifiers.normalise(text)) == key
    assert identifiers.lookalike(unicodedata.normalize("NFD", text)) == key
    assert identifiers.lookalike(text.casefold()) == key


def test_generated_ids_have_one_width() -> None:
    assert identifiers.generated(151, 200) == "row-000151"
    assert identifiers.generated(1_234_567, 2_000_000) == "row-1234567"
    assert identifiers.generated(1, 2_000_000) == "row-0000001"
