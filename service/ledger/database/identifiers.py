"""Record and subject ids as text: one normal form for ingest and requests.

The form removes what cannot be seen or typed on purpose, because programs differ in it for the same
person: Unicode's compatibility forms (NFKC: full-width letters, ligatures, no-break spaces and
hyphens), invisible characters (zero-width ones, soft hyphens, variation selectors), every kind of
dash and of white space, and white space around the id. It is Unicode's NFKC_Casefold with dashes
and spaces folded too, and with case folded only if the source says that case does not matter. Two
ids of one source with the same form, or that differ by case alone (``lookalike``), may be two
people: ingest refuses them and names both rows.

Earlier releases used a narrower form for datasets and suppressions (``composed``), and the first
releases kept ids unchanged. Keyed digests cannot be recomputed, so ids are looked up in all three
forms (``forms``).
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

#: Characters of the longest record and subject id.
LONGEST_RECORD_ID, LONGEST_SUBJECT_ID = 255, 1000

#: Prefix of every generated record id.
GENERATED_PREFIX = "row-"

#: Invisible characters (Default_Ignorable_Code_Point) whose category is a letter or a mark, and the
#: blank Braille pattern.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
#: Dashes (Unicode's property Dash) whose category is not that of dashes.
_OTHER_DASHES = frozenset("\u2053\u2212")


class Origin(StrEnum):
    """Where a dataset's ids come from."""

    SOURCE = "source"  # a column of the source
    GENERATED = "generated"  # made at ingest; no client has them
    ABSENT = "absent"  # the rows have none


class Case(StrEnum):
    """What a source declares about ids that differ by case."""

    DISTINCT = "distinct"  # they are different ids
    IGNORED = "ignored"  # they are one id; ids are kept and looked up case-folded


def normalise(text: str, *, fold_case: bool = False) -> str:
    """Return the form in which an id is kept and looked up; it may be empty."""
    if text.isascii() and text.isprintable():  # the usual case
        return " ".join((text.lower() if fold_case else text).split())
    if fold_case:
        # Compatibility caseless matching, the Unicode standard's definition D146.
        text = unicodedata.normalize("NFD", text).casefold()
        text = unicodedata.normalize("NFKC", text).casefold()
    shown = "".join(filter(_is_seen, unicodedata.normalize("NFKC", text)))
    text = "".join("-" if _is_dash(one) else one for one in shown)
    # Any white space becomes one space.
    return " ".join(unicodedata.normalize("NFKC", text).split())


def composed(text: str, *, fold_case: bool = False) -> str:
    """Return the form of earlier releases: composed (NFC), without white space around it."""
    if text.isascii():  # nothing to compose
        return (text.lower() if fold_case else text).strip()
    if fold_case:
        # Canonical caseless matching, the Unicode standard's definition D145.
        text = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", text).strip()


def forms(text: str, *, fold_case: bool = False) -> tuple[str, ...]:
    """Return the forms under which an id may be kept: present, earlier, unchanged."""
    now, before = normalise(text, fold_case=fold_case), composed(text, fold_case=fold_case)
    return tuple(dict.fromkeys((now, before, text)))


def lookalike(text: str) -> str:
    """Return a key that two ids share if they differ only in case and in what is normalised."""
    return normalise(text, fold_case=True)


def _is_seen(one: str) -> bool:
    """Return whether a character is visible; those that separate words count as visible."""
    return one.isspace() or not (unicodedata.category(one) in ("Cc", "Cf") or _UNSEEN.match(one))


def _is_dash(one: str) -> bool:
    return unicodedata.category(one) == "Pd" or one in _OTHER_DASHES


def generated(row: int, rows: int) -> str:
    """Return the generated id of row ``row`` (from 0) of ``rows``, such as ``row-000151``."""
    return f"{GENERATED_PREFIX}{row:0{max(6, len(str(rows - 1)))}}"
