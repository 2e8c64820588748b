"""Ways in which a source may write the numbers and truth values of columns that it has as words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from enum import Enum

from unlearning.inputs.typed_table import Type
from workers.readers import booleans


class Numbers(Enum):
    """Ways of writing the numbers of a column."""

    SHORTEST = "2"
    POINT = "2.0"
    #: All with as many decimals as the longest one has, and two at least.
    FIXED = "2.00"


#: How a column is written: its numbers, or its words of false and true.
Way = Numbers | tuple[str, str]

#: The words of false and true as sources write them.
_WORDS: tuple[tuple[str, str], ...] = (
    *(
        (case(false), case(true))
        for false, true in booleans.WORDS
        for case in (str.lower, str.capitalize, str.upper)
    ),
    booleans.DIGITS,
)
#: Most ways of writing the columns of a row if each may be written in its own one.
_MOST = 512


def alike(types: Sequence[Type]) -> Iterator[tuple[Way, ...]]:
    """Yield the ways of writing columns if all of a type are written alike."""
    numbers = Numbers if "number" in types else (Numbers.SHORTEST,)
    pairs = _WORDS if "boolean" in types else _WORDS[:1]
    for way, pair in itertools.product(numbers, pairs):
        yield tuple(pair if type == "boolean" else way for type in types)


def own(columns: Sequence[tuple[Type, Sequence[str]]]) -> list[tuple[Way, ...]]:
    """Return the ways of writing columns if each is written in its own one.

    ``columns``: their types and the words that they are known to have, which come first. If they
    are too many, each column has as many as there can be of all, and one at least.
    """
    each = [_of(type, words) for type, words in columns]
    most = max(map(len, each), default=1)
    while most > 1 and math.prod(min(most, len(its)) for its in each) > _MOST:
        most -= 1
    return list(itertools.product(*(its[:most] for its in each)))


def _of(kind: Type, words: Sequence[str]) -> list[Way]:
    if kind == "whole":
        return [Numbers.SHORTEST]
    if kind == "number":
        return list(Numbers)
    known = [[word for word in words if booleans.value(word) is truth] for truth in (False, True)]
    if not any(known):
        return list(_WORDS)
    usual = [list(dict.fromkeys(pair[truth] for pair in _WORDS)) for truth in (0, 1)]
    found = itertools.product(*(its or others for its, others in zip(known, usual, strict=True)))
    return list(dict.fromkeys([*((no, yes) for no, yes in found), *_WORDS]))


def written(values: Sequence[float], kind: Type, way: Way) -> list[str]:
    """Return numbers or truth values of a column as words."""
    if not isinstance(way, Numbers):
        return [way[int(one)] for one in values]
    if kind == "number" and way == Numbers.FIXED:
        places = [-int(Decimal(repr(one)).as_tuple().exponent) for one in values]
        return [f"{one:.{max(2, *places)}f}" for one in values]
    point = kind == "number" and way == Numbers.POINT
    return [str(int(one)) if one.is_integer() and not point else repr(one) for one in values]
