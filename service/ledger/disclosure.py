"""What of a measurement may be read by whom.

Averages over many forgotten rows say something about the model. Over one row they are that row: its
label, its loss before and after, its rank in an attack. So are the differences of two tables over
sets that one row lies between. For keys that may not read the audit, and in signed reports, which
are handed on:

- a batch of fewer than ``LEAST_ROWS`` rows keeps what is listed here, and nothing else;
- figures of a whole set (retained, audit, calibration rows) are shown only where none of its rows,
  or at least ``LEAST_ROWS`` of them, left it since they were shown last (``verifications``);
- lists of single records are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Members that tell about single records.
PER_RECORD = frozenset({"worst_records", "scores", "per_record", "record_scores"})
#: Fewest rows whose figures anybody may read.
LEAST_ROWS = 10
#: Steps in which the largest share of one class that was forgotten is told.
CLASS_SHARE_STEP = 0.05

#: What a version's notes keep where its batch had fewer than ``LEAST_ROWS`` rows: words and
#: settings that do not follow from the rows.
NOTES_OF_FEW = frozenset(
    {
        "rows",
        "step",
        "preconditioner",
        "strength_from",
        "guard_rows",
        "forgotten_since_anchor",
        "batches_logged",
        "epochs",
        "update_log",
        "base_damaged",
        "passed_over",
    }
)
#: What a verification's drift keeps of such a batch.
_DRIFT_OF_FEW = frozenset({"forgotten_rows", "anchor_rows", "of_whole_classes", "forgotten_share"})
#: What a figure keeps when it is withheld.
_COUNTS = frozenset({"rows", "never_seen_rows"})
#: Accuracy lost from one version to the next on the same rows: no other table has this pair of
#: versions, so that there is nothing to subtract it from. Its control and references are others.
_PAIRED = {"audit_accuracy_drop": "audit", "retain_accuracy_drop": "retain"}
_PAIR = frozenset({"value", "interval", *_COUNTS})
#: Other metrics of a whole set, by the set.
_OF_A_SET = {
    "audit_accuracy_drop_since_anchor": "audit",
    "prediction_divergence_audit": "audit",
    "retain_membership_change": "retain",
}
#: Figures of an import that are of whole sets.
_OF_AN_IMPORT = ("chance", "training_less_audit")
_WHY = f"fewer than {LEAST_ROWS} rows: shown to keys with audit:read"
_WHY_CHANGED = (
    f"fewer than {LEAST_ROWS} rows left this set since its figures were last shown, and their "
    "difference would tell of these rows: shown to keys with audit:read"
)
#: What stands for all classes that have too few rows to be named.
_OTHER = "other"


def measured(document: Mapping[str, Any], set_changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a stored verification less what tells about single records or very few of them.

    ``set_changes`` is the verification's member of that name; None withholds every whole set.
    """
    found: dict[str, Any] = _without_records(document)
    few = _is_of_few(found)
    changed = _changed(set_changes)
    if isinstance(found.get("metrics"), dict):
        found["metrics"] = {
            name: _metric(name, metric, few=few, changed=changed)
            for name, metric in found["metrics"].items()
        }
    silent = {
        gate["gate"] for gate in found.get("gates", []) if _gives_withheld_figures(gate, found, few)
    }
    if "gates" in found:
        found["gates"] = [
            gate | {"reason": _WHY} if gate["gate"] in silent else gate for gate in found["gates"]
        ]
    found["reasons"] = [
        f"{gate}: {_WHY}" if (gate := reason.partition(":")[0]) in silent else reason
        for reason in found.get("reasons", [])
    ]
    if isinstance(found.get("drift"), dict):
        found["drift"] = _drift(found["drift"], few=few, changed=changed)
    if few and found.get("retrain_because"):
        found["retrain_because"] = [_WHY]
    if few or _few(found.get("relearn_time")):
        found["relearn_time"] = _withheld(found.get("relearn_time"), _WHY)
    if isinstance(found.get("sets"), dict):
        found["sets"] = _sets(found["sets"], changed)
    if found.get("kind") == "import" and changed:
        found |= _import(found)
    return found


def notes(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version's notes for everybody; ``rows`` says how many rows its batch forgot."""
    found: dict[str, Any] = _without_records(document)
    if "comparison" in found:
        found["comparison"] = comparison(found["comparison"])
    if not _few(found):
        return found
    kept = {name: value for name, value in found.items() if name in NOTES_OF_FEW}
    # The reasons quote losses and shares.
    return kept | ({"retrain_because": [_WHY]} if found.get("retrain_because") else {})


def comparison(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison of an approximate with an exact version for everybody."""
    found: dict[str, Any] = _without_records(document)
    changed = _changed(found.pop("set_changes", None))
    found["sets"] = {
        name: _withheld(figures, _WHY_CHANGED) if name in changed or _few(figures) else figures
        for name, figures in found.get("sets", {}).items()
    }
    return found


def class_share(share: float, *, forgotten: int) -> float | None:
    """Return the largest forgotten share of one class in coarse steps; None for very few rows.

    One row's share of its class tells how large the class is, and so which one it is.
    """
    if forgotten < LEAST_ROWS:
        return None
    return min(1.0, round(math.ceil(share / CLASS_SHARE_STEP - 1e-9) * CLASS_SHARE_STEP, 4))


def _import(found: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of an import without their figures, which are of whole sets."""
    return {
        **{name: _withheld(found.get(name), _WHY_CHANGED) for name in _OF_AN_IMPORT},
        "rules": [rule | {"reason": _WHY_CHANGED} for rule in found.get("rules", [])],
        "reasons": [f"{one.partition(':')[0]}: {_WHY_CHANGED}" for one in found["reasons"]],
    }


def _is_of_few(found: Mapping[str, Any]) -> bool:
    """Whether the batch itself forgot very few rows, however many its pool has."""
    own = found.get("sets", {}).get("unlearned", {}) if isinstance(found.get("sets"), dict) else {}
    return _few(own.get("forget")) if isinstance(own, dict) else False


def _changed(set_changes: Mapping[str, Any] | None) -> frozenset[str]:
    """Names of the sets whose figures are withheld."""
    if set_changes is None:
        return frozenset({"retain", "audit", "calibration"})
    return frozenset(name for name, rows in set_changes["rows"].items() if rows)


def _metric(name: str, metric: Any, *, few: bool, changed: frozenset[str]) -> Any:
    if name in _PAIRED:
        if not few and _PAIRED[name] not in changed:
            return metric
        return {member: value for member, value in metric.items() if member in _PAIR}
    if few or _few(metric):
        return _withheld(metric, _WHY)
    return _withheld(metric, _WHY_CHANGED) if _OF_A_SET.get(name) in changed else metric


def _gives_withheld_figures(gate: Mapping[str, Any], found: Mapping[str, Any], few: bool) -> bool:
    """Whether a gate's reason quotes figures that are withheld."""
    if gate.get("concern") == "integrity":
        return False
    if few and gate.get("concern") == "removal":
        return True
    # A metric is named for its gate, one about utility by what drops.
    return any(
        "withheld" in metric
        for name, metric in found.get("metrics", {}).items()
        if name.startswith(gate["gate"]) or name.replace("_drop", "") == gate["gate"]
        if name.endswith("_since_anchor") == gate["gate"].endswith("_since_anchor")
    )


def _drift(drift: Mapping[str, Any], *, few: bool, changed: frozenset[str]) -> dict[str, Any]:
    forgotten = drift.get("forgotten_rows", 0)
    if few or forgotten < LEAST_ROWS:
        return {name: value if name in _DRIFT_OF_FEW else None for name, value in drift.items()}
    coarse = class_share(drift.get("largest_class_share") or 0.0, forgotten=forgotten)
    losses = ("validation_loss", "validation_loss_rise") if "calibration" in changed else ()
    return {**drift, "largest_class_share": coarse, **dict.fromkeys(losses)}


def _sets(sets: Mapping[str, Any], changed: frozenset[str]) -> dict[str, Any]:
    """Figures by model and set, or by set alone as an exact version has them."""
    if not any(name in sets for name in ("retain", "audit", "calibration")):
        return {
            who: _sets_of_a_model(of, changed) if isinstance(of, dict) else of
            for who, of in sets.items()
        }
    return _sets_of_a_model(sets, changed)


def _sets_of_a_model(sets: Mapping[str, Any], changed: frozenset[str]) -> dict[str, Any]:
    return {name: _set(name, figures, changed) for name, figures in sets.items()}


def _set(name: str, figures: Any, changed: frozenset[str]) -> Any:
    if name in changed:
        return _withheld(figures, _WHY_CHANGED)
    if _few(figures):
        return _withheld(figures, _WHY)
    if not isinstance(figures, dict) or not isinstance(figures.get("classes"), dict):
        return figures
    if name != "forget":
        # How many rows of each class are left tells, from one version to the next, which went.
        return {member: value for member, value in figures.items() if member != "classes"}
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


def _withheld(figures: Any, why: str) -> Any:
    if not isinstance(figures, dict):
        return figures
    counts = {name: value for name, value in figures.items() if name in _COUNTS}
    return counts | {"withheld": why}


def _without_records(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _without_records(item) for name, item in value.items() if name not in PER_RECORD
        }
    return [_without_records(item) for item in value] if isinstance(value, list) else value
