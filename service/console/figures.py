"""Measured figures as pages show them: a row of a table, or of a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from service.console import charts, words


def row(name: str, metric: Any) -> dict[str, Any]:
    """Return a metric for a row of the table: numbers, and a strip if they may be shown."""
    of = metric if isinstance(metric, Mapping) else {}
    on = mark(words.plain(name), of)
    return {
        "name": on.name,
        "value": on.value,
        "interval": on.interval,
        "control": on.control,
        "reference": on.reference,
        "rows": of.get("rows"),
        "withheld": of.get("withheld"),
        "strip": None
        if on.value is None
        else charts.strip(on.value, on.interval, control=on.control, reference=on.reference),
    }


def mark(name: str, metric: Mapping[str, Any]) -> charts.Mark:
    """Return a metric for a row of a picture."""
    return charts.Mark(
        name,
        number(metric.get("value")),
        _interval(metric.get("interval")),
        *(number(_value(metric.get(side))) for side in ("control", "reference")),
    )


def number(value: Any) -> float | None:
    """Return a number as a float; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def numbers(values: Iterable[Any]) -> list[float]:
    """Return those of the values that are numbers."""
    return [found for one in values if (found := number(one)) is not None]


def _value(side: Any) -> Any:
    return side.get("value") if isinstance(side, Mapping) else side


def _interval(value: Any) -> tuple[float, float] | None:
    known = numbers(value if isinstance(value, list | tuple) else ())
    return (known[0], known[1]) if len(known) == 2 else None
