"""Redaction: what of a measurement may be read by whom.

Averages over many forgotten rows describe the model. An average over one row is that row: its
label, its loss before and after, its rank in an attack. So is the difference of two tables over
sets that differ by one row. Therefore, for keys without the audit scope, and in signed reports,
which may be passed on:

- of a batch of fewer than ``LEAST_ROWS`` rows only what is declared public is kept; figures of a
  pool that such a batch is part of are withheld, too;
- what is declared public, differences between two versions on a whole set, is withheld if the set
  has fewer than ``LEAST_ROWS`` rows, or if two versions with the same weights were measured on
  another set: subtracted, the two differences would be those of the rows in between;
- figures of a whole set (retained, audit, validation rows) are shown only if the set was shown of
  the dataset before, or differs by ``LEAST_ROWS`` rows from each that was (``shown_sets``);
- figures of forgotten rows, and notes of the step that depend on them, are withheld if another
  batch of the model, or of one with the same weights, or a shown whole set differs by fewer rows,
  or if fewer are left over between several of them (``shown_batches``);
- points of an attack's curve are withheld as figures of forgotten rows are, and if there are fewer
  than ``LEAST_ROWS`` rows for each point;
- results of a training's epochs are figures of its training and its validation rows;
- lists of single records, and what has no declaration (``declarations``), are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from service.ledger.reports import declarations, reasons, withholding
from service.ledger.reports.declarations import Declared, Disclosure, Figure

LEAST_ROWS = reasons.LEAST_ROWS
#: Step to which the largest forgotten share of one class is rounded up.
CLASS_SHARE_STEP = 0.05

#: Members of a verification that may be shown; rules for the figures in them are separate.
_SHOWN = frozenset(
    {
        "kind",
        "verdict",
        "mark",
        "reasons",
        "rules",
        "chance",
        "training_less_audit",
        "gates",
        "metrics",
        "sets",
        "pooled",
        "drift",
        "relearn_time",
        "attack_curve",
        "certificate",
        "retrain_because",
        "limits",
        "does_not_show",
    }
)
#: Among a version's notes, by how few rows its batch differs from another one of the same base.
APART = "rows_apart"
#: What is kept of a version's notes if its batch had, or differs by, fewer than ``LEAST_ROWS``
#: rows: words and settings that do not depend on the rows.
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
        "features",
        "penalty",
        "grid_bits",
        "statistics",
        "update_log",
        "base_damaged",
        "passed_over",
    }
)
#: What is kept of the drift of such a batch's verification.
_DRIFT_OF_FEW = frozenset({"forgotten_rows", "anchor_rows", "of_whole_classes", "forgotten_share"})
#: Its figures of validation rows.
_LOSSES = ("validation_loss", "anchor_validation_loss", "validation_loss_rise")
#: What is shown of a certificate. Its rows per class would tell the class of a single row.
_CERTIFICATE = frozenset(
    {
        "digest_before",
        "digest_after",
        "rows_before",
        "rows_deleted",
        "rows_added",
        "rows_after",
        "penalty",
        "residual",
        "gradient_norm",
        "rounding",
        "distance_bound",
        "headroom_bits",
        "grid_bits",
        "features",
    }
)
#: What is shown of an attack's curve.
_CURVE = frozenset({"rows", "false_positive_rates", "unlearned", "control", "reference"})
#: Parts of a public figure; its control and references are figures of other models.
_PUBLIC = frozenset({"value", "interval", "rows", "never_seen_rows"})
#: Results of an epoch, in the order in which they are stored.
_RESULTS = ("training_loss", "validation_loss", "validation_accuracy", "learning_rate")
#: The sets that these are of, where their size is stored, and which they are.
_OF_A_CURVE = (
    ("retain", "training_rows", frozenset({"training_loss"})),
    ("calibration", "validation_rows", frozenset({"validation_loss", "validation_accuracy"})),
)
#: Figures of an import that are about whole sets.
_OF_AN_IMPORT = ("chance", "training_less_audit")
#: Among a verification's set changes: the weights of the version and of its base were measured
#: together before, on other rows.
PAIR_AGAIN = "pair_again"
#: The set that removal metrics are about: the batch's rows, and those pooled with them.
FORGOTTEN = "forget"
#: Name of the sum over all classes with too few rows to be named.
_OTHER = "other"


def measured(document: Mapping[str, Any], set_changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a stored verification without what describes single records or very few of them.

    ``set_changes`` is the verification's column of that name; None withholds every whole set.
    """
    declared = declarations.of(document)
    found: dict[str, Any] = withholding.without_records(
        {name: value for name, value in document.items() if name in _SHOWN}
    )
    few = _is_of_few(found)
    changed = _changed(set_changes)
    mixed = _is_mixed(found.get("pooled"))
    again = bool(set_changes and set_changes.get(PAIR_AGAIN))
    if isinstance(found.get("metrics"), dict):
        found["metrics"] = {
            name: _metric(
                declared.metric(name), metric, few=few, changed=changed, mixed=mixed, again=again
            )
            for name, metric in found["metrics"].items()
        }
    silent = {
        gate["gate"]: why
        for gate in found.get("gates", [])
        if (why := _why_silent(gate["gate"], declared, found, few)) is not None
    }
    if "gates" in found:
        found["gates"] = [
            gate | {"reason": silent.get(gate["gate"], gate["reason"])} for gate in found["gates"]
        ]
    found["reasons"] = [
        f"{gate}: {silent[gate]}" if (gate := reason.partition(":")[0]) in silent else reason
        for reason in found.get("reasons", [])
    ]
    if isinstance(found.get("drift"), dict):
        found["drift"] = _drift(found["drift"], few=few, changed=changed)
    if few and found.get("retrain_because"):
        found["retrain_because"] = [reasons.FEW]
    if few or FORGOTTEN in changed or withholding.few(found.get("relearn_time")):
        why = reasons.CHANGED if FORGOTTEN in changed and not few else reasons.FEW
        found["relearn_time"] = withholding.withheld(found.get("relearn_time"), why)
    if isinstance(found.get("attack_curve"), dict):
        found["attack_curve"] = _curve_of_an_attack(
            found["attack_curve"], few=few, changed=changed, mixed=mixed
        )
    if isinstance(found.get("certificate"), dict):
        found["certificate"] = withholding.only(found["certificate"], _CERTIFICATE)
    if isinstance(found.get("sets"), dict):
        found["sets"] = _sets(found["sets"], changed)
    if found.get("kind") == "import" and changed:
        found |= _import(found)
    return found


def notes(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public part of a version's notes; ``rows`` is the size of its batch."""
    found: dict[str, Any] = withholding.without_records(document)
    # Of releases in which training runs did not hold it.
    found.pop("history", None)
    if "comparison" in found:
        found["comparison"] = comparison(found["comparison"])
    apart = found.pop(APART, 0)
    if not apart and not withholding.few(found):
        return found
    kept = {name: value for name, value in found.items() if name in NOTES_OF_FEW}
    # The reasons quote losses and shares.
    why = reasons.FEW if withholding.few(found) else reasons.CHANGED
    return kept | ({"retrain_because": [why]} if found.get("retrain_because") else {})


def comparison(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public part of the comparison of an approximate with an exact version."""
    found: dict[str, Any] = withholding.without_records(document)
    changed = _changed(found.pop("set_changes", None))
    found["sets"] = {
        name: withholding.withheld(figures, reasons.CHANGED)
        if name in changed or withholding.few(figures)
        else figures
        for name, figures in found.get("sets", {}).items()
    }
    return found


def curve(
    document: Mapping[str, Any] | None,
    set_changes: Mapping[str, Any] | None,
    *,
    everything: bool = False,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the results of a training's epochs, and why some are None although measured.

    ``set_changes`` is the training run's column of that name. ``everything``: for a key with the
    audit scope.
    """
    if document is None:
        return [], None
    changed: frozenset[str] = frozenset() if everything else _changed(set_changes)
    withheld: set[str] = set()
    why = None
    for set_name, rows, figures in _OF_A_CURVE:
        if set_name in changed or (not everything and document[rows] < LEAST_ROWS):
            withheld |= figures
            why = reasons.CHANGED if set_name in changed else reasons.FEW
    epochs = [
        {"epoch": number, **dict(zip(_RESULTS, results, strict=True)), **dict.fromkeys(withheld)}
        for number, results in enumerate(document["epochs"], 1)
    ]
    return epochs, why


def class_share(share: float, *, forgotten: int) -> float | None:
    """Return the largest forgotten share of one class in coarse steps; None for very few rows.

    The exact share of one row would reveal the size of its class, and so the class.
    """
    if forgotten < LEAST_ROWS:
        return None
    return min(1.0, round(math.ceil(share / CLASS_SHARE_STEP - 1e-9) * CLASS_SHARE_STEP, 4))


def _import(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rules of an import without their figures, which are about whole sets."""
    return {
        **{name: withholding.withheld(found.get(name), reasons.CHANGED) for name in _OF_AN_IMPORT},
        "rules": [rule | {"reason": reasons.CHANGED} for rule in found.get("rules", [])],
        "reasons": [f"{one.partition(':')[0]}: {reasons.CHANGED}" for one in found["reasons"]],
    }


def _is_of_few(found: Mapping[str, Any]) -> bool:
    """Return whether the batch itself forgot very few rows, whatever the size of its pool."""
    own = found.get("sets", {}).get("unlearned", {}) if isinstance(found.get("sets"), dict) else {}
    return withholding.few(own.get("forget")) if isinstance(own, dict) else False


def _changed(set_changes: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names of the sets whose figures are withheld."""
    if set_changes is None or "rows" not in set_changes:
        return frozenset({"retain", "audit", "calibration"})
    return frozenset(name for name, rows in set_changes["rows"].items() if rows)


def _is_mixed(pooled: Any) -> bool:
    """Return whether a pool's figures minus those of whole batches would be about very few rows.

    A pool that does not state the sizes of its batches may have very small ones.
    """
    if not isinstance(pooled, Mapping):
        return False
    of_few: bool = pooled.get("batches", 1) > 1 and pooled.get("smallest_batch", 0) < LEAST_ROWS
    unmatched: int = pooled.get("unmatched_rows", 0)
    return of_few or 0 < unmatched < LEAST_ROWS


def _metric(
    says: Figure, metric: Any, *, few: bool, changed: frozenset[str], mixed: bool, again: bool
) -> dict[str, Any]:
    """Return the public part of a metric, with the reason if its value is withheld."""
    figures = metric if isinstance(metric, dict) else {}
    public = says.disclosure is Disclosure.PUBLIC
    if says.disclosure is Disclosure.SCORES:
        why = reasons.RECORDS
    elif public and again:
        why = reasons.AGAIN
    elif withholding.few(figures):
        why = reasons.FEW
    elif public:
        limited = few or says.rows_of in changed
        return withholding.only(figures, _PUBLIC if limited else declarations.FIGURES | says.notes)
    elif few:
        why = reasons.FEW
    elif mixed and says.rows_of == FORGOTTEN:
        why = reasons.POOLED
    elif says.rows_of in changed or _compares_changed(says, figures, changed):
        why = reasons.CHANGED
    else:
        return withholding.only(figures, declarations.FIGURES | says.notes)
    # The never-seen rows are those of the forgotten rows' classes: their number would tell which.
    uncounted = dict.fromkeys(figures.keys() & {"never_seen_rows"})
    return withholding.only(figures, withholding.COUNTS) | uncounted | {"withheld": why}


def _curve_of_an_attack(
    curve: Mapping[str, Any], *, few: bool, changed: frozenset[str], mixed: bool
) -> Mapping[str, Any]:
    """Return the points of an attack's curve; few rows for each point would be single ranks."""
    points = len(curve.get("false_positive_rates") or ())
    if few:
        why = reasons.FEW
    elif curve.get("rows", 0) < LEAST_ROWS * points:
        why = reasons.POINTS
    elif mixed:
        why = reasons.POOLED
    elif FORGOTTEN in changed:
        why = reasons.CHANGED
    else:
        return withholding.only(curve, _CURVE)
    withheld: Mapping[str, Any] = withholding.withheld(curve, why)
    return withheld


def _compares_changed(says: Figure, figures: Mapping[str, Any], changed: frozenset[str]) -> bool:
    """Return whether a figure of one whole set compares it with rows of another that has changed.

    Forgotten rows are those of one batch: its figures have no other table beside them.
    """
    compares = says.rows_of != FORGOTTEN and bool(figures.get("never_seen_rows"))
    return compares and not changed.isdisjoint({"audit", "calibration"})


def _why_silent(gate: str, declared: Declared, found: Mapping[str, Any], few: bool) -> str | None:
    """Return why a gate's reason, which quotes figures, is withheld; None if it is shown."""
    says = declared.gate(gate)
    if says.disclosure is Disclosure.SCORES:
        return reasons.RECORDS
    metrics = found.get("metrics") or {}
    withheld = (metrics.get(name, {}).get("withheld") for name in says.metrics)
    if few and says.disclosure is not Disclosure.PUBLIC:
        return reasons.FEW
    return next(filter(None, withheld), None)


def _drift(drift: Mapping[str, Any], *, few: bool, changed: frozenset[str]) -> dict[str, Any]:
    forgotten = drift.get("forgotten_rows", 0)
    if few or forgotten < LEAST_ROWS:
        return {name: value if name in _DRIFT_OF_FEW else None for name, value in drift.items()}
    coarse = class_share(drift.get("largest_class_share") or 0.0, forgotten=forgotten)
    # The loss of the anchor, whose weights stay, on both sets would differ by that of these rows.
    losses = _LOSSES if "calibration" in changed else ()
    return {**drift, "largest_class_share": coarse, **dict.fromkeys(losses)}


def _sets(sets: Mapping[str, Any], changed: frozenset[str]) -> dict[str, Any]:
    """Return figures by model and set, or by set alone as in an exact version's verification."""
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
        return withholding.withheld(figures, reasons.CHANGED)
    if withholding.few(figures):
        return withholding.withheld(figures, reasons.FEW)
    if not isinstance(figures, dict) or not isinstance(figures.get("classes"), dict):
        return figures
    if name != "forget":
        # The rows left per class would reveal, from one version to the next, which class lost some.
        return {member: value for member, value in figures.items() if member != "classes"}
    return figures | {"classes": _classes(figures["classes"])}


def _classes(classes: Mapping[str, Any]) -> dict[str, Any]:
    """Return classes with enough rows by name, the others as one count."""
    shown = {label: of for label, of in classes.items() if not withholding.few(of)}
    rows = sum(of["rows"] for label, of in classes.items() if label not in shown)
    if 0 < rows < LEAST_ROWS:
        # The total minus the shown ones would give the figures of these few rows.
        rows += sum(of["rows"] for of in shown.values())
        shown = {}
    return shown | ({_OTHER: {"rows": rows, "withheld": reasons.FEW}} if rows else {})
