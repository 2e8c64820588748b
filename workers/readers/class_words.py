"""Labels as words: find the words of a source, and number them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from workers.readers.contract import Options, ReadError

#: More words than this are no classes.
MOST_CLASSES = 10_000
_LONGEST_WORD = 1_000


def find(pieces: Iterable[Sequence[Any]], options: Options, *, column: str) -> Sequence[str] | None:
    """Return the classes' words in the order of their numbers, or None if labels are numbers.

    ``pieces`` are the values of the label column, piece by piece; the first that is not empty
    decides. Words are numbered in the order of their code points, unless the options have them.
    """
    words: set[str] = set()
    for piece in pieces:
        for value in dict.fromkeys(piece):
            word = tidy(value)
            if not word:
                continue
            if not words and (not isinstance(value, str) or is_number(word)):
                return None
            if options.class_names is not None:
                return options.class_names
            words.add(word)
            if len(words) > MOST_CLASSES or len(word) > _LONGEST_WORD or "\0" in word:
                raise ReadError(
                    f"the labels are more than {MOST_CLASSES:,} different words, longer than "
                    f"{_LONGEST_WORD:,} characters or with NUL in them; name the column of the "
                    "classes (columns.label)",
                    column=column,
                )
    for word in sorted(words):
        if is_number(word):
            raise ReadError(
                "the labels are numbers in some rows and words in others; write all as words, or "
                "number the classes 0, 1, 2, …",
                column=column,
            )
    return sorted(words) or None


def numbered(found: Sequence[Any], names: Sequence[str], missing: Sequence[str]) -> list[int]:
    """Return the numbers of words, −1 for one that is missing or no class."""
    number = {word: place for place, word in enumerate(names) if word not in missing}
    known = {value: number.get(tidy(value), -1) for value in dict.fromkeys(found)}
    return [known[value] for value in found]


def tidy(value: object) -> str:
    """Return a label's word without white space around it, its letters composed; "" for None."""
    return "" if value is None else unicodedata.normalize("NFC", str(value).strip())


def is_number(word: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True
