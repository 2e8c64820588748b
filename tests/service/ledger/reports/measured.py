"""Verifications of one or many forgotten rows, made up or really measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from service.ledger.reports.disclosure import LEAST_ROWS
from unlearning import verification

SECRET = 0.123456

#: No row left a set since its figures were last shown.
SHOWN = {"revision": 1, "rows": {"retain": 0, "calibration": 0, "audit": 0}}


def made_figures(rows: int, **more: Any) -> dict[str, Any]:
    return {"rows": rows, "mean_loss": SECRET, "accuracy": {"value": SECRET}} | more


def made_gate(name: str, concern: str, outcome: str, reason: str) -> dict[str, str]:
    return {"gate": name, "concern": concern, "outcome": outcome, "reason": reason}


def made_document(rows: int, *, of_a_class: int) -> dict[str, Any]:
    classes = {"3": made_figures(of_a_class), "4": made_figures(LEAST_ROWS)}
    return {
        "verdict": "no_power",
        "reasons": [f"membership: it is {SECRET}", "lineage: clean"],
        "gates": [
            made_gate("membership", "removal", "no_power", f"it is {SECRET}"),
            made_gate("lineage", "integrity", "passed", "clean"),
        ],
        "metrics": {
            "membership_auc": made_figures(rows, never_seen_rows=500, control={"value": SECRET}),
            "audit_accuracy_drop": {"rows": 500, "value": 0.01},
        },
        "sets": {
            "unlearned": {
                "forget": made_figures(rows, classes=classes),
                "audit": {"rows": 500, "mean_loss": 0.5, "classes": {"3": {"rows": 2}}},
            }
        },
        "relearn_time": {"rows": rows, "forget_steps": SECRET},
    }


def verified_batch(
    new: verification.ModelScores, old: verification.ModelScores, **more: Any
) -> dict[str, Any]:
    criteria = verification.Criteria(least_rows=1)
    facts = {"changed": True, "lineage_clean": True, "criteria": criteria}
    return verification.verify(new, old, **facts, **more).to_json()


def made_model(
    loss: Any, generator: np.random.Generator, *, label: int = 0
) -> verification.ModelScores:
    """Forget rows of one class with these losses, beside 200 never-seen rows of ten classes."""
    labels = np.tile(np.arange(10), 20)
    rows = np.arange(len(loss))
    return verification.ModelScores(
        forget=made_scores(loss, np.full(len(loss), label), 1000 + rows),
        audit=made_scores(generator.exponential(size=200), labels, np.arange(200)),
        retain=made_scores(generator.exponential(size=200), labels, 2000 + np.arange(200)),
    )


def made_scores(loss: Any, labels: Any, rows: Any) -> verification.Scores:
    return verification.Scores(loss=loss, correct=loss < 0.7, label=labels, rows=rows)


def leaves_of(value: Any) -> Iterator[Any]:
    """Every word and number of a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves_of(item)
    else:
        yield value
