"""What of a measurement may be read by whom.

Averages over many forgotten rows say something about the model. Over one row they are that row: its
label, its loss before and after, its rank in an attack. So figures of fewer than ``LEAST_ROWS``
forgotten rows, and lists of single records, are for keys that may read the audit, and never enter a
signed report, which is handed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Members that tell about single records.
PER_RECORD = frozenset({"worst_records", "scores", "per_record", "record_scores"})
#: Fewest forgotten rows whose figures anybody may read.
LEAST_ROWS = 10

#: Members of a version's notes that are losses of the forgotten rows, or follow from them.
_OF_FORGOTTEN = frozenset({"target", "reached", "slope", "strength", "value", "guard_rise"})
#: What a figure keeps when it is withheld.
_COUNTS = frozenset({"rows", "never_seen_rows"})
_WHY = f"fewer than {LEAST_ROWS} forgotten rows: shown to keys with audit:read"


def measured(document: Mapping[str, Any]) -> dict[str, Any]:
    """A stored verification, less what tells about single records or very few of them."""
    found: dict[str, Any] = _without_records(document)
    few = {name for name, metric in found.get("metrics", {}).items() if _few(metric)}
    if few:
        found["metrics"] = {
            name: _withheld(metric) if name in few else metric
            for name, metric in found["metrics"].items()
        }
        found["gates"] = [
            gate | {"reason": _WHY} if gate["gate"] in few else gate
            for gate in found.get("gates", [])
        ]
        found["reasons"] = [
            f"{gate}: {_WHY}" if (gate := reason.partition(":")[0]) in few else reason
            for reason in found.get("reasons", [])
        ]
    if _few(found.get("relearn_time")):
        found["relearn_time"] = _withheld(found["relearn_time"])
    if isinstance(found.get("sets"), dict):
        found["sets"] = {who: _sets(of) for who, of in found["sets"].items()}
    return found


def notes(document: Mapping[str, Any]) -> dict[str, Any]:
    """A version's notes for everybody; ``rows`` says how many rows its batch forgot."""
    found: dict[str, Any] = _without_records(document)
    if not _few(found):
        return found
    return {name: value for name, value in found.items() if name not in _OF_FORGOTTEN}


def _sets(model: Any) -> Any:
    """One model's figures by set of rows; those of few forgotten rows, or of few of a class."""
    if not isinstance(model, dict) or not isinstance(model.get("forget"), dict):
        return model
    forget = model["forget"]
    if _few(forget):
        return model | {"forget": _withheld(forget)}
    classes = {
        label: _withheld(figures) if _few(figures) else figures
        for label, figures in forget.get("classes", {}).items()
    }
    return model | {"forget": forget | {"classes": classes}}


def _few(figures: Any) -> bool:
    rows = figures.get("rows") if isinstance(figures, dict) else None
    return isinstance(rows, int) and rows < LEAST_ROWS


def _withheld(figures: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: value for name, value in figures.items() if name in _COUNTS}
    return counts | {"withheld": _WHY}


def _without_records(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _without_records(item) for name, item in value.items() if name not in PER_RECORD
        }
    return [_without_records(item) for item in value] if isinstance(value, list) else value
