"""What of a pool of batches anybody may read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.ledger.reports import disclosure
from service.ledger.reports.disclosure import LEAST_ROWS
from tests.service.ledger.reports.measured import (
    SECRET,
    SHOWN,
    made_document,
    made_figures,
    made_gate,
    made_model,
    verified_batch,
)
from unlearning import verification


def test_a_pool_of_many_rows_does_not_show_the_figures_of_a_batch_of_one() -> None:
    document = made_document(120, of_a_class=1)
    document["sets"]["unlearned"]["forget"] = made_figures(1)
    shown = disclosure.measured(document, SHOWN)
    # The pool before this batch was shown as well: their difference is the one row.
    assert str(SECRET) not in json.dumps(shown)


def test_nothing_shown_of_a_pool_follows_from_a_batch_of_one_in_it() -> None:
    """The batch's own figures, less those of the pool, would be the row's."""

    def shown(loss: float) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        many, base = (made_model(generator.exponential(size=12), generator) for _ in range(2))
        one = made_model(np.array([loss]), generator, label=7)
        earlier = verification.Evidence(one, one)
        return disclosure.measured(verified_batch(many, base, earlier=[earlier]), SHOWN)

    known, forgotten = shown(0.01), shown(5.0)
    assert known == forgotten
    assert known["metrics"]["forget_accuracy_gap"].keys() == {"rows", "never_seen_rows", "withheld"}
    # The batch's own rows are enough.
    assert "accuracy" in known["sets"]["unlearned"]["forget"]


def test_a_pool_of_batches_that_are_all_large_enough_is_shown() -> None:
    generator = np.random.default_rng(0)
    many, base = (made_model(generator.exponential(size=12), generator) for _ in range(2))
    earlier = verification.Evidence(many, base)
    shown = disclosure.measured(verified_batch(many, base, earlier=[earlier]), SHOWN)
    assert shown["metrics"]["forget_accuracy_gap"]["rows"] == 24
    assert "value" in shown["metrics"]["forget_accuracy_gap"]
    # One stored before it said how small its batches are may have small ones.
    old = verified_batch(many, base, earlier=[earlier])
    del old["pooled"]["smallest_batch"]
    assert "withheld" in disclosure.measured(old, SHOWN)["metrics"]["forget_accuracy_gap"]


def test_a_row_of_a_class_that_nobody_has_never_seen_is_not_what_two_figures_differ_by() -> None:
    generator = np.random.default_rng(0)
    new, base = (made_model(generator.exponential(size=12), generator) for _ in range(2))
    for model in (new, base):
        model.forget.label[0] = 10  # no never-seen row has it
    shown = disclosure.measured(verified_batch(new, base), SHOWN)
    assert shown["metrics"]["forget_accuracy_gap"]["rows"] == 11
    assert "withheld" in shown["metrics"]["forget_accuracy_gap"]
    assert shown["sets"]["unlearned"]["forget"]["rows"] == 12


@pytest.mark.parametrize("changes", [None, {"revision": 2, "rows": {"retain": 3, "audit": 1}}])
def test_figures_of_sets_that_a_few_rows_left_are_withheld(changes: Any) -> None:
    document = made_document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    model = document["sets"]["unlearned"]
    model |= {"retain": made_figures(900), "audit": made_figures(500)}
    document["metrics"] |= {
        "retain_accuracy_drop": {"rows": 900, "value": 0.01, "reference": {"value": SECRET}},
        "audit_accuracy_drop_since_anchor": {"rows": 500, "value": SECRET, "control": SECRET},
        "retain_membership_change": {"rows": 900, "value": SECRET},
    }
    document["gates"] += [
        made_gate("retain_accuracy", "utility", "passed", "changed by 0.01"),
        made_gate("audit_accuracy_since_anchor", "utility", "passed", f"changed by {SECRET}"),
    ]
    shown = disclosure.measured(document, changes)
    for name in ("retain", "audit"):
        assert shown["sets"]["unlearned"][name].keys() == {"rows", "withheld"}
    assert shown["metrics"]["retain_accuracy_drop"] == {"rows": 900, "value": 0.01}
    assert "withheld" in shown["metrics"]["audit_accuracy_drop_since_anchor"]
    assert "withheld" in shown["metrics"]["retain_membership_change"]
    reasons = {gate["gate"]: gate["reason"] for gate in shown["gates"]}
    assert reasons["retain_accuracy"] == "changed by 0.01"
    assert str(SECRET) not in reasons["audit_accuracy_since_anchor"]


@pytest.mark.parametrize("changed", ["audit", "calibration"])
def test_a_figure_that_compares_a_set_with_one_that_a_few_rows_left_is_withheld(
    changed: str,
) -> None:
    """The retained rows' AUC against audit rows changes with the audit rows."""
    document = made_document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    compared = {"rows": 900, "never_seen_rows": 500, "value": SECRET}
    document["metrics"] |= {"retain_membership_change": compared}
    rows = {"retain": 0, "calibration": 0, "audit": 0}
    whole = disclosure.measured(document, {"revision": 2, "rows": rows})
    assert whole["metrics"]["retain_membership_change"]["value"] == SECRET
    shown = disclosure.measured(document, {"revision": 2, "rows": rows | {changed: 1}})
    assert "withheld" in shown["metrics"]["retain_membership_change"]


@pytest.mark.parametrize(
    ("rows", "again", "shown"), [(9, False, False), (10, False, True), (900, True, False)]
)
def test_a_difference_of_few_rows_or_of_a_pair_measured_before_is_withheld(
    rows: int, again: bool, shown: bool
) -> None:
    document = made_document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    document["metrics"]["retain_accuracy_drop"] = {
        "rows": rows,
        "value": SECRET,
        "interval": [0, SECRET],
    }
    document["gates"] += [made_gate("retain_accuracy", "utility", "failed", f"changed by {SECRET}")]
    document["reasons"] = [f"retain_accuracy: changed by {SECRET}"]
    changes = {"revision": 2, "rows": {}} | ({disclosure.PAIR_AGAIN: True} if again else {})
    found = disclosure.measured(document, changes)
    metric = found["metrics"]["retain_accuracy_drop"]
    reasons = {gate["gate"]: gate["reason"] for gate in found["gates"]}
    if shown:
        assert metric == document["metrics"]["retain_accuracy_drop"]
        assert reasons["retain_accuracy"] == f"changed by {SECRET}"
    else:
        assert metric.keys() == {"rows", "withheld"}
        assert str(SECRET) not in json.dumps([metric, reasons["retain_accuracy"], found["reasons"]])
        assert "audit:read" in reasons["retain_accuracy"]


def test_no_loss_on_validation_rows_that_a_few_rows_left_is_shown() -> None:
    """The anchor's weights stay, so its losses on both sets differ by those of these rows."""
    document = made_document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    losses = ("validation_loss", "anchor_validation_loss", "validation_loss_rise")
    document["drift"] = {"forgotten_rows": 90, "relative_distance": 0.1} | dict.fromkeys(
        losses, SECRET
    )
    changed = {"revision": 2, "rows": {"retain": 0, "calibration": 1, "audit": 0}}
    shown = disclosure.measured(document, changed)["drift"]
    assert [shown[name] for name in losses] == [None] * 3
    assert shown["relative_distance"] == 0.1
    assert disclosure.measured(document, SHOWN)["drift"]["validation_loss"] == SECRET
