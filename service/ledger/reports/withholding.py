"""What is kept of figures that are withheld."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.ledger.reports.declarations import PER_RECORD
from service.ledger.reports.reasons import LEAST_ROWS

#: What is kept of a withheld figure.
COUNTS = frozenset({"rows"})


def few(figures: Any) -> bool:
    """Return whether figures are of fewer than ``LEAST_ROWS`` rows."""
    rows = figures.get("rows") if isinstance(figures, dict) else None
    return isinstance(rows, int) and rows < LEAST_ROWS


def withheld(figures: Any, why: str) -> Any:
    """Return the number of rows of figures, with the reason why there is no more."""
    return only(figures, COUNTS) | {"withheld": why} if isinstance(figures, dict) else figures


def only(figures: Mapping[str, Any], members: frozenset[str]) -> dict[str, Any]:
    """Return the members of an object that have these names."""
    return {name: value for name, value in figures.items() if name in members}


def without_records(value: Any) -> Any:
    """Return a document without the members that describe single records, at any depth."""
    if isinstance(value, Mapping):
        return {
            name: without_records(item) for name, item in value.items() if name not in PER_RECORD
        }
    return [without_records(item) for item in value] if isinstance(value, list) else value
