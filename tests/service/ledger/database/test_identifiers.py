"""One form of an id for ingest and requests."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.database import identifiers

#: Hyphen, non-breaking hyphen, figure, en and em dash, horizontal bar, minus, small and full-width
#: hyphen, superscript and subscript minus.
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d\u207b\u208b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jos\u00e9", "jose\u0301"),
        ("p1", "p1 "),
        ("p1", "\u00a0p1\u2003\t"),
        ("a b", " a b\r\n"),
        ("\uac00", "\u1100\u1161"),
        ("p1", "\uff501"),
        ("fin", "\ufb01n"),
        ("a b", "a\u00a0b"),
        ("a b", "a\u202fb"),
        ("ab", "a\u200bb"),
        ("ab", "a\u00adb"),
        ("ab", "\ufeffab"),
        ("ab", "ab\ufe0f"),
        ("ab", "a\u034fb"),
        ("ab", "a\u3164b"),
        ("ab", "\u2800ab"),
        ("ab", "ab\x7f"),
        ("a b", "a  b"),
        ("a b", "a\tb"),
        ("a b", "a\u2003\u200bb"),
        ("\u00e4", "a\u200b\u0308"),
        ("", "\u200b \u00a0\u2060"),
        *(("a-b", f"a{dash}b") for dash in DASHES),
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
        ("p1", "p2"),
        ("a", "\u00e4"),
        ("1", "01"),
        ("l", "1"),
        ("a-b", "ab"),
        ("a b", "ab"),
        ("a_b", "a-b"),
        ("a\u2043b", "a-b"),  # a hyphen bullet, which is no dash
        ("a\u30fcb", "a-b"),  # a letter of Katakana
        ("\u0430nn", "ann"),  # a letter of Cyrillic
        ("O1", "01"),
    ],
)
def test_different_ids_do_not_look_alike(one: str, other: str) -> None:
    assert identifiers.lookalike(one) != identifiers.lookalike(other)


@given(st.text(), st.booleans())
def test_a_normalised_id_is_normalised_already(text: str, fold: bool) -> None:
    once = identifiers.normalise(text, fold_case=fold)
    assert identifiers.normalise(once, fold_case=fold) == once
    assert unicodedata.is_normalized("NFKC", once)


def test_every_dash_of_unicode_is_one() -> None:
    dashes = [one for one in map(chr, range(0x110000)) if unicodedata.category(one) == "Pd"]
    assert {identifiers.normalise(f"a{dash}b") for dash in dashes} == {"a-b"}


@given(st.text(), st.booleans())
def test_forms_of_before_are_normalised_like_the_id(text: str, fold: bool) -> None:
    now, *before = identifiers.forms(text, fold_case=fold)
    assert {identifiers.normalise(form, fold_case=fold) for form in before} <= {now}
    assert now == identifiers.normalise(text, fold_case=fold)
    assert text in (now, *before)


@given(st.text())
def test_every_form_of_an_id_looks_like_it(text: str) -> None:
    key = identifiers.lookalike(text)
    assert identifiers.lookalike(identifiers.normalise(text)) == key
    assert identifiers.lookalike(unicodedata.normalize("NFD", text)) == key
    assert identifiers.lookalike(text.casefold()) == key


@pytest.mark.parametrize(
    ("text", "fold", "before"),
    [
        ("jose\u0301\u2013x ", False, "jos\u00e9\u2013x"),
        ("STRA\u00dfE\u2013X", True, "strasse\u2013x"),
        (" A\u0007B", True, "a\u0007b"),
    ],
)
def test_an_id_is_looked_for_in_the_form_that_was_kept_before_dashes_were_one(
    text: str, fold: bool, before: str
) -> None:
    assert before in identifiers.forms(text, fold_case=fold)


def test_generated_ids_have_one_width() -> None:
    assert identifiers.generated(151, 200) == "row-000151"
    assert identifiers.generated(1_234_567, 2_000_000) == "row-1234567"
    assert identifiers.generated(1, 2_000_000) == "row-0000001"
