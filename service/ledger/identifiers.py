"""Record and subject ids as text: one form for ingest and requests, so that both mean the same.

An id is compared in Unicode's composed form (NFC) without the white space around it, because those
differ between programs that mean the same person. What differs by case or by a compatibility form
(a ligature, a full-width letter, an invisible character) may be another person: ``lookalike`` tells
such ids, and ingest refuses them unless the source says whether case matters.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

#: Characters of the longest record and subject id.
LONGEST_RECORD_ID, LONGEST_SUBJECT_ID = 255, 1000

#: Begins every generated record id.
GENERATED_PREFIX = "row-"

#: Characters that Unicode lets a program leave out (Default_Ignorable_Code_Point) and that are
#: letters or marks by their category, and the blank Braille pattern.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


class Origin(StrEnum):
    """Where a dataset's ids come from."""

    SOURCE = "source"  # a column of the source
    GENERATED = "generated"  # made at ingest; no client has them
    ABSENT = "absent"  # the rows have none


class Case(StrEnum):
    """What a source says of ids that differ by case or compatibility form."""

    DISTINCT = "distinct"  # they are different ids
    IGNORED = "ignored"  # they are one id; ids are kept and looked up case-folded


def normalise(text: str, *, fold_case: bool = False) -> str:
    """Return the form in which an id is kept and looked up; it may be empty."""
    if text.isascii():  # nothing to compose; by far the most ids
        return (text.lower() if fold_case else text).strip()
    if fold_case:
        # Canonical caseless matching, the Unicode standard's definition D145.
        text = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", text).strip()


def forms(text: str, *, fold_case: bool = False) -> tuple[str, ...]:
    """Return the forms under which an id may be kept: normalised, then as given.

    Datasets ingested before ids were normalised keep them as their source gave them.
    """
    return tuple(dict.fromkeys((normalise(text, fold_case=fold_case), text)))


def lookalike(text: str) -> str:
    """Return a key that two ids share when only case, form, spaces or unseen characters differ."""
    if text.isascii() and text.isprintable():  # by far the most ids
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    seen = unicodedata.normalize("NFKC", "".join(filter(_is_seen, folded)))
    # One space is as good as two, or as a tab.
    return " ".join(seen.split())


def _is_seen(one: str) -> bool:
    """Whether a character shows; those between words do."""
    return one.isspace() or not (unicodedata.category(one) in ("Cc", "Cf") or _UNSEEN.match(one))


def generated(row: int, rows: int) -> str:
    """Return the id of row ``row`` (from 0) of ``rows``: ``row-000151``; no client has such ids."""
    return f"{GENERATED_PREFIX}{row:0{max(6, len(str(rows - 1)))}}"
