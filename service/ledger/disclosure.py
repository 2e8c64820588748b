"""What of a measurement may be read by whom.

Averages over many forgotten rows say something about the model. Over one row they are that row: its
label, its loss before and after, its rank in an attack. So figures of fewer than ``LEAST_ROWS``
rows, the words that repeat them, and lists of single records, are for keys that may read the audit,
and never enter a signed report, which is handed on. Nor does what the figures beside it add up to.
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
_WHY = f"fewer than {LEAST_ROWS} rows: shown to keys with audit:read"
#: What stands for all classes that have too few rows to be named.
_OTHER = "other"


def measured(document: Mapping[str, Any]) -> dict[str, Any]:
    """A stored verification, less what tells about single records or very few of them."""
    found: dict[str, Any] = _without_records(document)
    few = {name for name, metric in found.get("metrics", {}).items() if _few(metric)}
    if few:
        found["metrics"] = {
            name: _withheld(metric) if name in few else metric
            for name, metric in found["metrics"].items()
        }
    silent = {gate["gate"] for gate in found.get("gates", []) if _tells_of_few(gate, few, found)}
    if silent:
        found["gates"] = [
            gate | {"reason": _WHY} if gate["gate"] in silent else gate for gate in found["gates"]
        ]
        found["reasons"] = [
            f"{gate}: {_WHY}" if (gate := reason.partition(":")[0]) in silent else reason
            for reason in found.get("reasons", [])
        ]
    drift = found.get("drift")
    if isinstance(drift, dict) and drift.get("forgotten_rows", 0) < LEAST_ROWS:
        # One row's share of its class tells how large the class is, and so which one it is.
        found["drift"] = drift | {"largest_class_share": None}
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


def _tells_of_few(gate: Mapping[str, Any], few: set[str], found: Mapping[str, Any]) -> bool:
    """Whether a gate's reason gives figures of few rows; a metric's name begins with its gate's."""
    if any(name.startswith(gate["gate"]) for name in few):
        return True
    if gate.get("concern") != "removal":
        return False
    # Where rows are pooled, a batch that is large enough for the policy is also judged alone.
    own = found.get("sets", {}).get("unlearned", {}).get("forget", {})
    return _few(own) and found.get("limits", {}).get("least_rows", LEAST_ROWS) <= own["rows"]


def _sets(model: Any) -> Any:
    """One model's figures by set of rows, less those of few rows, in all or of a class."""
    if not isinstance(model, dict):
        return model
    return {name: _set(figures) for name, figures in model.items()}


def _set(figures: Any) -> Any:
    if _few(figures):
        return _withheld(figures)
    if not isinstance(figures, dict) or not isinstance(figures.get("classes"), dict):
        return figures
    return figures | {"classes": _classes(figures["classes"])}


def _classes(classes: Mapping[str, Any]) -> dict[str, Any]:
    """The classes with enough rows by their names, the others as one count."""
    shown = {label: of for label, of in classes.items() if not _few(of)}
    rows = sum(of["rows"] for label, of in classes.items() if label not in shown)
    if 0 < rows < LEAST_ROWS:
        # All less those shown would be the figures of these few rows.
        rows += sum(of["rows"] for of in shown.values())
        shown = {}
    return shown | ({_OTHER: {"rows": rows, "withheld": _WHY}} if rows else {})


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
