"""What of a measurement anybody may read, and what only an auditor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.ledger.reports import declarations, disclosure
from service.ledger.reports.disclosure import LEAST_ROWS
from tests.service.ledger.reports.measured import (
    SECRET,
    SHOWN,
    leaves_of,
    made_document,
    made_figures,
    made_gate,
    made_model,
    verified_batch,
)
from unlearning import verification


def test_figures_of_very_few_forgotten_rows_are_withheld() -> None:
    shown = disclosure.measured(made_document(LEAST_ROWS - 1, of_a_class=LEAST_ROWS - 1), SHOWN)
    assert str(SECRET) not in json.dumps(shown)
    membership = shown["metrics"]["membership_auc"]
    assert (membership["rows"], membership["never_seen_rows"]) == (LEAST_ROWS - 1, None)
    assert "audit:read" in membership["withheld"]
    assert "classes" not in shown["sets"]["unlearned"]["forget"]
    # What it came to, and what is about other rows, stays.
    assert [gate["outcome"] for gate in shown["gates"]] == ["no_power", "passed"]
    assert shown["reasons"][1] == "lineage: clean"
    assert shown["metrics"]["audit_accuracy_drop"]["value"] == 0.01
    assert shown["sets"]["unlearned"]["audit"]["mean_loss"] == 0.5


def test_figures_of_enough_rows_are_shown_but_for_classes_with_few() -> None:
    shown = disclosure.measured(made_document(LEAST_ROWS, of_a_class=1), SHOWN)
    assert shown["metrics"]["membership_auc"]["control"] == {"value": SECRET}
    forget = shown["sets"]["unlearned"]["forget"]
    assert forget["mean_loss"] == SECRET
    # All less class 4 would be class 3: neither is named.
    assert forget["classes"].keys() == {"other"}
    assert forget["classes"]["other"]["rows"] == LEAST_ROWS + 1


def test_classes_with_few_rows_are_one_count_where_that_hides_them() -> None:
    document = made_document(26, of_a_class=8)
    classes = document["sets"]["unlearned"]["forget"]["classes"]
    classes["5"] = made_figures(8)
    shown = disclosure.measured(document, SHOWN)["sets"]["unlearned"]["forget"]["classes"]
    assert shown.keys() == {"4", "other"}
    assert shown["4"]["mean_loss"] == SECRET
    assert shown["other"].keys() == {"rows", "withheld"}
    assert shown["other"]["rows"] == 16


def test_a_real_verification_of_one_record_keeps_its_label_and_losses_to_itself() -> None:
    """What the auditor itself writes, with what its gates and metrics say of themselves."""
    generator = np.random.default_rng(0)

    def model(loss: float) -> verification.ModelScores:
        return made_model(np.array([loss]), generator, label=7)

    moved = verification.Drift(
        relative_distance=0.1, forgotten_rows=1, anchor_rows=1000, largest_class_share=SECRET
    )
    found = verified_batch(model(SECRET), model(SECRET / 2), drift=moved)
    assert any(str(SECRET)[:5] in word for word in map(str, leaves_of(found)))
    shown = disclosure.measured(found, SHOWN)
    for side in ("unlearned", "control"):
        assert shown["sets"][side]["forget"].keys() == {"rows", "withheld"}
    assert shown["drift"]["largest_class_share"] is None
    removal = [gate for gate in shown["gates"] if gate["concern"] == "removal"]
    assert removal
    assert all("audit:read" in gate["reason"] for gate in removal)
    assert not any(str(SECRET)[:5] in word for word in map(str, leaves_of(shown)))
    outcomes = [(gate["gate"], gate["outcome"]) for gate in found["gates"]]
    assert [(gate["gate"], gate["outcome"]) for gate in shown["gates"]] == outcomes


def test_figures_of_one_record_do_not_tell_how_many_never_seen_rows_its_class_has() -> None:
    """The size of a class among the audit rows would tell the record's label."""

    def shown(label: int) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        new, old = (made_model(np.array([0.5]), generator, label=label) for _ in range(2))
        for model in (new, old):
            model.audit.label[:] = np.repeat([0, 1], [150, 50])
        found = verified_batch(new, old)
        assert found["metrics"]["membership_auc"]["never_seen_rows"] == (150, 50)[label]
        return disclosure.measured(found, SHOWN)

    assert shown(0)["metrics"] == shown(1)["metrics"]


@pytest.mark.parametrize("member", sorted(declarations.PER_RECORD))
def test_lists_of_single_records_are_left_out_wherever_they_stand(member: str) -> None:
    document = {"metrics": {"rmia_auc": {"rows": 90, member: [{"row": 3}], "value": 0.5}}}
    shown = disclosure.measured(document, SHOWN)["metrics"]
    assert shown == {"rmia_auc": {"rows": 90, "value": 0.5}}


def test_notes_of_a_batch_of_one_keep_only_what_is_known_not_to_follow_from_it() -> None:
    notes = {"rows": 1, "step": "calibrated", "reached": SECRET, "relative_distance": SECRET}
    notes |= {"retain_weight": SECRET, "a_note_of_a_later_method": SECRET}
    notes |= {"retrain_because": [f"the loss rose by {SECRET}"]}
    shown = disclosure.notes(notes)
    assert str(SECRET) not in json.dumps(shown)
    assert (shown["rows"], shown["step"]) == (1, "calibrated")
    many = notes | {"rows": LEAST_ROWS}
    assert disclosure.notes(many) == many


def test_row_counts_of_classes_are_told_of_forgotten_rows_alone() -> None:
    document = made_document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    shown = disclosure.measured(document, SHOWN)
    assert "classes" in shown["sets"]["unlearned"]["forget"]
    assert "classes" not in shown["sets"]["unlearned"]["audit"]


@pytest.mark.parametrize(
    ("share", "forgotten", "told"), [(0.031, 9, None), (0.031, 10, 0.05), (0.05, 40, 0.05)]
)
def test_the_largest_share_of_a_class_is_told_in_coarse_steps(
    share: float, forgotten: int, told: float | None
) -> None:
    assert disclosure.class_share(share, forgotten=forgotten) == told


def test_what_is_given_is_left_as_it_was() -> None:
    document = made_document(1, of_a_class=1)
    before = json.dumps(document)
    disclosure.measured(document, SHOWN)
    assert json.dumps(document) == before


@pytest.fixture(params=[1, 60], ids=["few", "many"])
def stored(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A verification of one row or of many, with references and against the anchor."""
    generator = np.random.default_rng(0)
    new, old, reference, anchor = (
        made_model(generator.exponential(size=request.param), generator) for _ in range(4)
    )
    return verified_batch(new, old, references=[reference], anchor_audit=anchor.audit)


CHANGES = [None, SHOWN, {"revision": 2, "rows": {"retain": 3, "calibration": 0, "audit": 1}}]


@pytest.mark.parametrize("changes", CHANGES)
def test_a_verification_that_is_too_old_to_say_so_is_shown_alike(
    stored: dict[str, Any], changes: Any
) -> None:
    old = {name: value for name, value in stored.items() if name != declarations.MEMBER}
    assert disclosure.measured(old, changes) == disclosure.measured(stored, changes)


def test_what_a_verification_says_of_its_figures_is_not_repeated(stored: dict[str, Any]) -> None:
    assert disclosure.measured(stored, SHOWN).keys() == stored.keys() - {declarations.MEMBER}


@pytest.mark.parametrize("changes", CHANGES)
def test_what_says_nothing_of_itself_is_shown_to_no_one(
    stored: dict[str, Any], changes: Any
) -> None:
    stored["metrics"]["later"] = {"value": SECRET, "interval": [0, SECRET], "rows": 300}
    stored["metrics"]["membership_auc"]["later"] = SECRET
    stored["gates"].append(made_gate("later", "removal", stored["verdict"], f"it is {SECRET}"))
    stored["reasons"].append(f"later: it is {SECRET}")
    shown = disclosure.measured(stored, changes)
    assert str(SECRET) not in json.dumps(shown)
    assert shown["metrics"]["later"].keys() == {"rows", "withheld"}
    assert shown["gates"][-1]["outcome"] == stored["verdict"]


@pytest.mark.parametrize("word", ["scores", "a word of a later release"])
def test_figures_of_single_records_are_withheld_however_many_there_are(word: str) -> None:
    generator = np.random.default_rng(0)
    new, old = (made_model(generator.exponential(size=60), generator) for _ in range(2))
    stored = verified_batch(new, old)
    said = stored[declarations.MEMBER]
    said["metrics"]["membership_auc"]["disclosure"] = word
    said["gates"]["membership"]["disclosure"] = word
    shown = disclosure.measured(stored, SHOWN)
    assert "audit:read" in shown["metrics"]["membership_auc"]["withheld"]
    assert "value" in shown["metrics"]["forget_accuracy_gap"]
    reasons = {gate["gate"]: gate["reason"] for gate in shown["gates"]}
    assert "single records" in reasons["membership"]
    assert "single records" not in reasons["forget_accuracy"]


def _curve(rows: int) -> dict[str, Any]:
    points = {"false_positive_rates": [0.1, 0.5], "unlearned": [0.1, 0.6], "control": [SECRET, 1]}
    return {"rows": rows, **points, "reference": None, "ranks": [SECRET]}


def test_the_points_of_an_attack_curve_are_shown_if_each_has_enough_rows() -> None:
    nothing = {"revision": 0, "rows": {}}
    enough = made_document(20, of_a_class=20) | {"attack_curve": _curve(20)}
    shown = disclosure.measured(enough, nothing)["attack_curve"]
    assert shown == {name: value for name, value in _curve(20).items() if name != "ranks"}
    few_for_each = enough | {"attack_curve": _curve(19)}
    assert set(disclosure.measured(few_for_each, nothing)["attack_curve"]) == {"rows", "withheld"}
    few = made_document(9, of_a_class=9) | {"attack_curve": _curve(100)}
    assert set(disclosure.measured(few, nothing)["attack_curve"]) == {"rows", "withheld"}
    again = {"revision": 0, "rows": {"forget": 3}}
    assert set(disclosure.measured(enough, again)["attack_curve"]) == {"rows", "withheld"}
    mixed = enough | {"pooled": {"batches": 2, "rows": 100, "smallest_batch": 1}}
    assert set(disclosure.measured(mixed, nothing)["attack_curve"]) == {"rows", "withheld"}
