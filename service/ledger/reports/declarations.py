"""What a stored verification says of itself: who may read which of its figures.

Gates and metrics say it where they are computed (``unlearning.verification``), and the answer is
stored beside the figures, so that whoever shows them needs to know no gate by its name. Nobody but
an auditor reads what says nothing of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: The member of a verification that holds what it says of itself.
MEMBER = "disclosure"
#: Members that tell about single records.
PER_RECORD = frozenset({"worst_records", "scores", "per_record", "record_scores"})
#: Members of every metric; all others are notes.
FIGURES = frozenset({"value", "interval", "control", "reference", "rows", "never_seen_rows"})


class Disclosure(StrEnum):
    """Who may read a figure; the words of ``unlearning.verification.Disclosure``."""

    #: Everybody.
    PUBLIC = "public"
    #: Everybody, unless it is of few rows or of a set that few rows left.
    FEW_ROWS = "few_rows"
    #: Keys with ``audit:read``.
    SCORES = "scores"


@dataclass(frozen=True)
class Figure:
    """What a metric says of itself; by default nothing, so that only auditors read it."""

    disclosure: Disclosure = Disclosure.SCORES
    #: The set whose rows it is about.
    rows_of: str = "forget"
    #: Members beside the figures that may be read with them.
    notes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reason:
    """What a gate says of the sentence that it gives."""

    disclosure: Disclosure = Disclosure.SCORES
    #: Metrics that the sentence quotes.
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declared:
    """What a verification says of its metrics and gates, by their names."""

    metrics: Mapping[str, Figure]
    gates: Mapping[str, Reason]

    def metric(self, name: str) -> Figure:
        """Return what a metric says of itself."""
        return self.metrics.get(name, Figure())

    def gate(self, name: str) -> Reason:
        """Return what a gate says of itself."""
        return self.gates.get(name, Reason())


def of(document: Mapping[str, Any]) -> Declared:
    """Return what a stored verification says of itself, or what is known of an old one."""
    said = document.get(MEMBER)
    if said is None:
        return _before(document)
    return Declared(
        metrics={name: _figure(about) for name, about in said["metrics"].items()},
        gates={name: _reason(about) for name, about in said["gates"].items()},
    )


def _figure(about: Mapping[str, Any]) -> Figure:
    return Figure(
        disclosure=_word(about["disclosure"]),
        rows_of=about["rows_of"],
        notes=frozenset(about["notes"]) - PER_RECORD,
    )


def _reason(about: Mapping[str, Any]) -> Reason:
    metric = about["metric"]
    return Reason(_word(about["disclosure"]), () if metric is None else (metric,))


def _word(word: str) -> Disclosure:
    """Return the disclosure; a word of a later release is read as the strictest."""
    return Disclosure(word) if word in list(Disclosure) else Disclosure.SCORES


# --- verifications stored before they said this themselves

#: Accuracy lost from one version to the next on the same rows of a set.
_PAIRED_BEFORE = {"audit_accuracy_drop": "audit", "retain_accuracy_drop": "retain"}
#: Metrics of a whole set, by the set; all others were of the forgotten rows.
_SETS_BEFORE = {
    **_PAIRED_BEFORE,
    "audit_accuracy_drop_since_anchor": "audit",
    "prediction_divergence_audit": "audit",
    "retain_membership_change": "retain",
}


def _before(document: Mapping[str, Any]) -> Declared:
    metrics: Mapping[str, Any] = document.get("metrics") or {}
    return Declared(
        metrics={name: _figure_before(name, metric) for name, metric in metrics.items()},
        gates={gate["gate"]: _reason_before(gate, metrics) for gate in document.get("gates", [])},
    )


def _figure_before(name: str, metric: Any) -> Figure:
    notes = frozenset(metric if isinstance(metric, Mapping) else ()) - FIGURES - PER_RECORD
    paired = name in _PAIRED_BEFORE
    return Figure(
        disclosure=Disclosure.PUBLIC if paired else Disclosure.FEW_ROWS,
        rows_of=_SETS_BEFORE.get(name, "forget"),
        notes=notes,
    )


def _reason_before(gate: Mapping[str, Any], metrics: Mapping[str, Any]) -> Reason:
    """Return what a gate's sentence quoted: metrics were named for gates, or by what drops."""
    if gate["concern"] == "integrity":
        return Reason(Disclosure.PUBLIC)
    name = gate["gate"]
    quoted = tuple(
        metric
        for metric in metrics
        if metric.startswith(name) or metric.replace("_drop", "") == name
        if metric.endswith("_since_anchor") == name.endswith("_since_anchor")
    )
    paired = bool(quoted) and set(quoted) <= set(_PAIRED_BEFORE)
    return Reason(Disclosure.PUBLIC if paired else Disclosure.FEW_ROWS, quoted)
