"""What of a measurement anybody may read, and what only an auditor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from service.ledger.reports import declarations, disclosure
from service.ledger.reports.disclosure import LEAST_ROWS
from unlearning import verification

SECRET = 0.123456
#: No row left a set since its figures were last shown.
SHOWN = {"revision": 1, "rows": {"retain": 0, "calibration": 0, "audit": 0}}


def _figures(rows: int, **more: Any) -> dict[str, Any]:
    return {"rows": rows, "mean_loss": SECRET, "accuracy": {"value": SECRET}} | more


def _gate(name: str, concern: str, outcome: str, reason: str) -> dict[str, str]:
    return {"gate": name, "concern": concern, "outcome": outcome, "reason": reason}


def _document(rows: int, *, of_a_class: int) -> dict[str, Any]:
    classes = {"3": _figures(of_a_class), "4": _figures(LEAST_ROWS)}
    return {
        "verdict": "no_power",
        "reasons": [f"membership: it is {SECRET}", "lineage: clean"],
        "gates": [
            _gate("membership", "removal", "no_power", f"it is {SECRET}"),
            _gate("lineage", "integrity", "passed", "clean"),
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
    shown = disclosure.measured(_document(LEAST_ROWS - 1, of_a_class=LEAST_ROWS - 1), SHOWN)
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
    shown = disclosure.measured(_document(LEAST_ROWS, of_a_class=1), SHOWN)
    assert shown["metrics"]["membership_auc"]["control"] == {"value": SECRET}
    forget = shown["sets"]["unlearned"]["forget"]
    assert forget["mean_loss"] == SECRET
    # All less class 4 would be class 3: neither is named.
    assert forget["classes"].keys() == {"other"}
    assert forget["classes"]["other"]["rows"] == LEAST_ROWS + 1


def test_classes_with_few_rows_are_one_count_where_that_hides_them() -> None:
    document = _document(26, of_a_class=8)
    classes = document["sets"]["unlearned"]["forget"]["classes"]
    classes["5"] = _figures(8)
    shown = disclosure.measured(document, SHOWN)["sets"]["unlearned"]["forget"]["classes"]
    assert shown.keys() == {"4", "other"}
    assert shown["4"]["mean_loss"] == SECRET
    assert shown["other"].keys() == {"rows", "withheld"}
    assert shown["other"]["rows"] == 16


def test_a_real_verification_of_one_record_keeps_its_label_and_losses_to_itself() -> None:
    """What the auditor itself writes, with what its gates and metrics say of themselves."""
    generator = np.random.default_rng(0)

    def model(loss: float) -> verification.ModelScores:
        return _model(np.array([loss]), generator, label=7)

    moved = verification.Drift(
        relative_distance=0.1, forgotten_rows=1, anchor_rows=1000, largest_class_share=SECRET
    )
    found = _verified(model(SECRET), model(SECRET / 2), drift=moved)
    assert any(str(SECRET)[:5] in word for word in map(str, _leaves(found)))
    shown = disclosure.measured(found, SHOWN)
    for side in ("unlearned", "control"):
        assert shown["sets"][side]["forget"].keys() == {"rows", "withheld"}
    assert shown["drift"]["largest_class_share"] is None
    removal = [gate for gate in shown["gates"] if gate["concern"] == "removal"]
    assert removal
    assert all("audit:read" in gate["reason"] for gate in removal)
    assert not any(str(SECRET)[:5] in word for word in map(str, _leaves(shown)))
    outcomes = [(gate["gate"], gate["outcome"]) for gate in found["gates"]]
    assert [(gate["gate"], gate["outcome"]) for gate in shown["gates"]] == outcomes


def test_figures_of_one_record_do_not_tell_how_many_never_seen_rows_its_class_has() -> None:
    """The size of a class among the audit rows would tell the record's label."""

    def shown(label: int) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        new, old = (_model(np.array([0.5]), generator, label=label) for _ in range(2))
        for model in (new, old):
            model.audit.label[:] = np.repeat([0, 1], [150, 50])
        found = _verified(new, old)
        assert found["metrics"]["membership_auc"]["never_seen_rows"] == (150, 50)[label]
        return disclosure.measured(found, SHOWN)

    assert shown(0)["metrics"] == shown(1)["metrics"]


def _verified(
    new: verification.ModelScores, old: verification.ModelScores, **more: Any
) -> dict[str, Any]:
    criteria = verification.Criteria(least_rows=1)
    facts = {"changed": True, "lineage_clean": True, "criteria": criteria}
    return verification.verify(new, old, **facts, **more).to_json()


def _model(
    loss: Any, generator: np.random.Generator, *, label: int = 0
) -> verification.ModelScores:
    """Forget rows of one class with these losses, beside 200 never-seen rows of ten classes."""
    labels = np.tile(np.arange(10), 20)
    rows = np.arange(len(loss))
    return verification.ModelScores(
        forget=_scores(loss, np.full(len(loss), label), 1000 + rows),
        audit=_scores(generator.exponential(size=200), labels, np.arange(200)),
        retain=_scores(generator.exponential(size=200), labels, 2000 + np.arange(200)),
    )


def _scores(loss: Any, labels: Any, rows: Any) -> verification.Scores:
    return verification.Scores(loss=loss, correct=loss < 0.7, label=labels, rows=rows)


def _leaves(value: Any) -> Iterator[Any]:
    """Every word and number of a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


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


def test_a_pool_of_many_rows_does_not_show_the_figures_of_a_batch_of_one() -> None:
    document = _document(120, of_a_class=1)
    document["sets"]["unlearned"]["forget"] = _figures(1)
    shown = disclosure.measured(document, SHOWN)
    # The pool before this batch was shown as well: their difference is the one row.
    assert str(SECRET) not in json.dumps(shown)


def test_nothing_shown_of_a_pool_follows_from_a_batch_of_one_in_it() -> None:
    """The batch's own figures, less those of the pool, would be the row's."""

    def shown(loss: float) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        many, base = (_model(generator.exponential(size=12), generator) for _ in range(2))
        one = _model(np.array([loss]), generator, label=7)
        earlier = verification.Evidence(one, one)
        return disclosure.measured(_verified(many, base, earlier=[earlier]), SHOWN)

    known, forgotten = shown(0.01), shown(5.0)
    assert known == forgotten
    assert known["metrics"]["forget_accuracy_gap"].keys() == {"rows", "never_seen_rows", "withheld"}
    # The batch's own rows are enough.
    assert "accuracy" in known["sets"]["unlearned"]["forget"]


def test_a_pool_of_batches_that_are_all_large_enough_is_shown() -> None:
    generator = np.random.default_rng(0)
    many, base = (_model(generator.exponential(size=12), generator) for _ in range(2))
    earlier = verification.Evidence(many, base)
    shown = disclosure.measured(_verified(many, base, earlier=[earlier]), SHOWN)
    assert shown["metrics"]["forget_accuracy_gap"]["rows"] == 24
    assert "value" in shown["metrics"]["forget_accuracy_gap"]
    # One stored before it said how small its batches are may have small ones.
    old = _verified(many, base, earlier=[earlier])
    del old["pooled"]["smallest_batch"]
    assert "withheld" in disclosure.measured(old, SHOWN)["metrics"]["forget_accuracy_gap"]


def test_a_row_of_a_class_that_nobody_has_never_seen_is_not_what_two_figures_differ_by() -> None:
    generator = np.random.default_rng(0)
    new, base = (_model(generator.exponential(size=12), generator) for _ in range(2))
    for model in (new, base):
        model.forget.label[0] = 10  # no never-seen row has it
    shown = disclosure.measured(_verified(new, base), SHOWN)
    assert shown["metrics"]["forget_accuracy_gap"]["rows"] == 11
    assert "withheld" in shown["metrics"]["forget_accuracy_gap"]
    assert shown["sets"]["unlearned"]["forget"]["rows"] == 12


@pytest.mark.parametrize("changes", [None, {"revision": 2, "rows": {"retain": 3, "audit": 1}}])
def test_figures_of_sets_that_a_few_rows_left_are_withheld(changes: Any) -> None:
    document = _document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    model = document["sets"]["unlearned"]
    model |= {"retain": _figures(900), "audit": _figures(500)}
    document["metrics"] |= {
        "retain_accuracy_drop": {"rows": 900, "value": 0.01, "reference": {"value": SECRET}},
        "audit_accuracy_drop_since_anchor": {"rows": 500, "value": SECRET, "control": SECRET},
        "retain_membership_change": {"rows": 900, "value": SECRET},
    }
    document["gates"] += [
        _gate("retain_accuracy", "utility", "passed", "changed by 0.01"),
        _gate("audit_accuracy_since_anchor", "utility", "passed", f"changed by {SECRET}"),
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
    document = _document(LEAST_ROWS, of_a_class=LEAST_ROWS)
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
    document = _document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    document["metrics"]["retain_accuracy_drop"] = {
        "rows": rows,
        "value": SECRET,
        "interval": [0, SECRET],
    }
    document["gates"] += [_gate("retain_accuracy", "utility", "failed", f"changed by {SECRET}")]
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
    document = _document(LEAST_ROWS, of_a_class=LEAST_ROWS)
    losses = ("validation_loss", "anchor_validation_loss", "validation_loss_rise")
    document["drift"] = {"forgotten_rows": 90, "relative_distance": 0.1} | dict.fromkeys(
        losses, SECRET
    )
    changed = {"revision": 2, "rows": {"retain": 0, "calibration": 1, "audit": 0}}
    shown = disclosure.measured(document, changed)["drift"]
    assert [shown[name] for name in losses] == [None] * 3
    assert shown["relative_distance"] == 0.1
    assert disclosure.measured(document, SHOWN)["drift"]["validation_loss"] == SECRET


def test_row_counts_of_classes_are_told_of_forgotten_rows_alone() -> None:
    document = _document(LEAST_ROWS, of_a_class=LEAST_ROWS)
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
    document = _document(1, of_a_class=1)
    before = json.dumps(document)
    disclosure.measured(document, SHOWN)
    assert json.dumps(document) == before


@pytest.fixture(params=[1, 60], ids=["few", "many"])
def stored(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A verification of one row or of many, with references and against the anchor."""
    generator = np.random.default_rng(0)
    new, old, reference, anchor = (
        _model(generator.exponential(size=request.param), generator) for _ in range(4)
    )
    return _verified(new, old, references=[reference], anchor_audit=anchor.audit)


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
    stored["gates"].append(_gate("later", "removal", stored["verdict"], f"it is {SECRET}"))
    stored["reasons"].append(f"later: it is {SECRET}")
    shown = disclosure.measured(stored, changes)
    assert str(SECRET) not in json.dumps(shown)
    assert shown["metrics"]["later"].keys() == {"rows", "withheld"}
    assert shown["gates"][-1]["outcome"] == stored["verdict"]


@pytest.mark.parametrize("word", ["scores", "a word of a later release"])
def test_figures_of_single_records_are_withheld_however_many_there_are(word: str) -> None:
    generator = np.random.default_rng(0)
    new, old = (_model(generator.exponential(size=60), generator) for _ in range(2))
    stored = _verified(new, old)
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
    enough = _document(20, of_a_class=20) | {"attack_curve": _curve(20)}
    shown = disclosure.measured(enough, nothing)["attack_curve"]
    assert shown == {name: value for name, value in _curve(20).items() if name != "ranks"}
    few_for_each = enough | {"attack_curve": _curve(19)}
    assert set(disclosure.measured(few_for_each, nothing)["attack_curve"]) == {"rows", "withheld"}
    few = _document(9, of_a_class=9) | {"attack_curve": _curve(100)}
    assert set(disclosure.measured(few, nothing)["attack_curve"]) == {"rows", "withheld"}
    again = {"revision": 0, "rows": {"forget": 3}}
    assert set(disclosure.measured(enough, again)["attack_curve"]) == {"rows", "withheld"}
    mixed = enough | {"pooled": {"batches": 2, "rows": 100, "smallest_batch": 1}}
    assert set(disclosure.measured(mixed, nothing)["attack_curve"]) == {"rows", "withheld"}
