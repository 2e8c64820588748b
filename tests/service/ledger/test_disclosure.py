"""What of a measurement anybody may read, and what only an auditor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.ledger import disclosure
from service.ledger.disclosure import LEAST_ROWS

SECRET = 0.123456


def _figures(rows: int, **more: Any) -> dict[str, Any]:
    return {"rows": rows, "mean_loss": SECRET, "accuracy": {"value": SECRET}} | more


def _document(rows: int, *, of_a_class: int) -> dict[str, Any]:
    classes = {"3": _figures(of_a_class), "4": _figures(LEAST_ROWS)}
    return {
        "verdict": "no_power",
        "reasons": [f"membership_auc: it is {SECRET}", "lineage: clean"],
        "gates": [
            {"gate": "membership_auc", "outcome": "no_power", "reason": f"it is {SECRET}"},
            {"gate": "lineage", "outcome": "passed", "reason": "clean"},
        ],
        "metrics": {
            "membership_auc": _figures(rows, never_seen_rows=500, control={"value": SECRET}),
            "audit_accuracy_drop": {"rows": 500, "value": 0.01},
        },
        "sets": {
            "unlearned": {
                "forget": _figures(rows, classes=classes),
                "audit": {"rows": 500, "mean_loss": 0.5, "classes": {"3": {"rows": 2}}},
            }
        },
        "relearn_time": {"rows": rows, "forget_steps": SECRET},
    }


def test_figures_of_very_few_forgotten_rows_are_withheld() -> None:
    shown = disclosure.measured(_document(LEAST_ROWS - 1, of_a_class=LEAST_ROWS - 1))
    assert str(SECRET) not in json.dumps(shown)
    membership = shown["metrics"]["membership_auc"]
    assert (membership["rows"], membership["never_seen_rows"]) == (LEAST_ROWS - 1, 500)
    assert "audit:read" in membership["withheld"]
    assert "classes" not in shown["sets"]["unlearned"]["forget"]
    # What it came to, and what is about other rows, stays.
    assert [gate["outcome"] for gate in shown["gates"]] == ["no_power", "passed"]
    assert shown["reasons"][1] == "lineage: clean"
    assert shown["metrics"]["audit_accuracy_drop"]["value"] == 0.01
    assert shown["sets"]["unlearned"]["audit"]["mean_loss"] == 0.5


def test_figures_of_enough_rows_are_shown_but_for_classes_with_few() -> None:
    shown = disclosure.measured(_document(LEAST_ROWS, of_a_class=1))
    assert shown["metrics"]["membership_auc"]["control"] == {"value": SECRET}
    forget = shown["sets"]["unlearned"]["forget"]
    assert forget["mean_loss"] == SECRET
    assert forget["classes"]["3"].keys() == {"rows", "withheld"}
    assert forget["classes"]["4"]["mean_loss"] == SECRET


@pytest.mark.parametrize("member", sorted(disclosure.PER_RECORD))
def test_lists_of_single_records_are_left_out_wherever_they_stand(member: str) -> None:
    document = {"metrics": {"rmia_auc": {"rows": 90, member: [{"row": 3}], "value": 0.5}}}
    assert disclosure.measured(document)["metrics"] == {"rmia_auc": {"rows": 90, "value": 0.5}}


def test_notes_of_a_batch_of_one_do_not_tell_its_loss() -> None:
    notes = {"rows": 1, "step": "calibrated", "reached": SECRET, "target": SECRET}
    assert disclosure.notes(notes) == {"rows": 1, "step": "calibrated"}
    many = notes | {"rows": LEAST_ROWS}
    assert disclosure.notes(many) == many


def test_what_is_given_is_left_as_it_was() -> None:
    document = _document(1, of_a_class=1)
    before = json.dumps(document)
    disclosure.measured(document)
    assert json.dumps(document) == before
