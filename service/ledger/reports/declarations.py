"""The disclosure rules of a stored verification: who may read which of its figures.

Gates and metrics declare them where they are computed (``unlearning.verification``), and they are
stored beside the figures, so that code that shows figures need not know gates by name. Figures
without a declaration are for auditors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Member of a verification that holds its declarations.
MEMBER = "disclosure"
#: Members with figures of single records.
PER_RECORD = frozenset({"worst_records", "scores", "per_record", "record_scores"})
#: Members of every metric; all others are notes.
FIGURES = frozenset({"value", "interval", "control", "reference", "rows", "never_seen_rows"})


class Disclosure(StrEnum):
    """Who may read a figure; equal to ``unlearning.verification.Disclosure``."""

    #: All readers.
    PUBLIC = "public"
    #: All readers, unless it is about few rows or a set that few rows left.
    FEW_ROWS = "few_rows"
    #: Only keys with ``audit:read``.
    SCORES = "scores"


@dataclass(frozen=True)
class Figure:
    """A metric's declaration; the default lets only auditors read it."""

    disclosure: Disclosure = Disclosure.SCORES
    #: The set of rows that it is about.
    rows_of: str = "forget"
    #: Further members that may be read with the figures.
    notes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reason:
    """A gate's declaration about its reason, a sentence that may quote metrics."""

    disclosure: Disclosure = Disclosure.SCORES
    #: Metrics that the reason quotes.
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declared:
    """A verification's declarations of metrics and gates, by name."""

    metrics: Mapping[str, Figure]
    gates: Mapping[str, Reason]

    def metric(self, name: str) -> Figure:
        """Return a metric's declaration."""
        return self.metrics.get(name, Figure())

    def gate(self, name: str) -> Reason:
        """Return a gate's declaration."""
        return self.gates.get(name, Reason())


def of(document: Mapping[str, Any]) -> Declared:
    """Return a stored verification's declarations, or those known for an old one."""
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
    """Return the disclosure; one of a later release is read as the strictest."""
    return Disclosure(word) if word in list(Disclosure) else Disclosure.SCORES


# --- verifications stored before they had declarations

#: Accuracy lost from one version to the next on the same rows of a set.
_PAIRED_BEFORE = {"audit_accuracy_drop": "audit", "retain_accuracy_drop": "retain"}
#: Metrics of a whole set, with the set; all others are about forgotten rows.
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
    """Return which metrics a gate's reason quoted: those named for the gate, or what it drops."""
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
