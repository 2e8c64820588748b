"""Which rows of a set are read where all of them would be too many.

A row's *place* depends on its number alone. A sample of a set is its rows with places below a
limit, without those excluded since: no other row takes the place of an excluded one. So the ledger
can count by how many rows two samples differ, without a list of either.
"""

from __future__ import annotations

from typing import Any, TypeVar

#: Places are whole numbers from 0 to this one, exclusive: a prime, so that products of two fit into
#: 63 bits. As a limit it leaves out no row.
PLACES = 2**31 - 1

_FIRST, _SECOND, _SHIFT = 1_640_531_527, 1_103_515_245, 12_345

Numbers = TypeVar("Numbers", bound=Any)


def place(row: Numbers) -> Numbers:
    """Return the place of a row number: of an int, or each of a 64-bit array, tensor or column.

    Only operations that all of these share are used. A linear map alone would put rows at regular
    distances, and sources often repeat with a period; squares modulo a prime do not follow one.
    """
    mixed = (row * _FIRST + _SHIFT) % PLACES
    mixed = (mixed * mixed + row) % PLACES
    mixed = (mixed * _SECOND + _SHIFT) % PLACES
    found: Numbers = (mixed * mixed + row) % PLACES
    return found
