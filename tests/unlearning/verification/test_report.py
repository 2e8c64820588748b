"""A verification as plain JSON."""

import json
from typing import Any

import numpy as np
import pytest

from unlearning.errors import WrongOptions
from unlearning.verification import (
    Criteria,
    Drift,
    Evidence,
    ModelScores,
    Scores,
    Verdict,
    gates,
    limits,
    verify,
)
from unlearning.verification.attacks.relearn import RelearnTime

from .evidence import drawn, scores


def with_probabilities(one: Scores, seed: int) -> Scores:
    p = np.random.default_rng(seed).dirichlet(np.ones(3), len(one)).astype(np.float32)
    return Scores(one.loss, one.correct, one.label, one.rows, probabilities=p)


def full(seed: int, memory: float) -> ModelScores:
    model = drawn(seed, forget=120, audit=600, memory=memory)
    return ModelScores(
        forget=with_probabilities(model.forget, int(1000 * memory)),
        audit=with_probabilities(model.audit, int(1000 * memory) + 1),
        retain=drawn(seed + 100, forget=300, audit=1, memory=1.0).forget,
        calibration=drawn(seed + 200, forget=100, audit=1).forget,
    )


#: Metrics whose control is known without measuring it: doing nothing changes nothing.
BY_DEFINITION = {
    "version_difference_auc": 0.5,
    "retain_membership_change": 0.0,
    "audit_accuracy_drop": 0.0,
    "retain_accuracy_drop": 0.0,
    "audit_gain_auc": 0.5,
}

#: What compares references with each other and so needs two of them.
OF_TWO_REFERENCES = {
    "calibrated_membership_auc",
    "rmia_auc",
    "prediction_divergence_forget",
    "prediction_divergence_audit",
}


def documented(references: int, **options: object) -> dict[str, Any]:
    found = verify(
        full(0, 0.0),
        full(0, 0.9),
        changed=True,
        lineage_clean=True,
        references=[full(0, m) for m in (0.02, 0.03, 0.04)[:references]],
        anchor_audit=full(0, 1.1).audit,
        drift=Drift(0.02, 120, 1000, 0.3, 0.5, 0.4),
        relearn=RelearnTime(12, None, 30, control=RelearnTime(0, 9, 30)),
        **options,
    )
    document: dict[str, Any] = json.loads(json.dumps(found.to_json(), allow_nan=False))
    return document


@pytest.mark.parametrize("references", [0, 1, 3])
@pytest.mark.parametrize("kind", ["records", "class"])
def test_every_metric_has_control_and_reference(kind: str, references: int) -> None:
    metrics = documented(references, kind=kind)["metrics"]
    assert len(metrics) >= 8
    for name, metric in metrics.items():
        for side in (metric, metric["control"]):
            low, high = side["interval"]
            assert (-np.inf if low is None else low) <= side["value"]
            assert side["value"] <= (np.inf if high is None else high)
        if name in BY_DEFINITION:
            assert metric["control"]["interval"] == [BY_DEFINITION[name]] * 2
        if references == 3 or (references == 1 and name not in OF_TWO_REFERENCES):
            assert metric["reference"]["value"] is not None, name
        else:
            assert metric["reference"] is None, name


def test_every_part_is_json() -> None:
    document = documented(3)
    for name in ("membership_auc", "forget_accuracy_gap", "true_positive_rate_at_0.01"):
        metric = document["metrics"][name]
        assert metric["control"]["value"] > metric["value"]
        assert (metric["rows"], metric["never_seen_rows"]) == (120, 600)
    for name in OF_TWO_REFERENCES:
        low, high = document["metrics"][name]["reference_band"]
        assert low <= high
    assert len(document["metrics"]["calibrated_membership_auc"]["worst_records"]) == 10
    assert {"rmia_auc", "version_difference_auc", "retain_membership_change"} <= set(
        document["metrics"]
    )
    assert "audit_accuracy_drop_since_anchor" in document["metrics"]
    assert set(document["sets"]["control"]) == {"forget", "audit", "retain", "calibration"}
    assert len(document["sets"]) == 5
    assert len(document["retrain_because"]) == 3
    times = document["relearn_time"]
    assert (times["forget_steps"], times["never_seen_steps"], times["ratio"]) == (12, None, None)
    assert times["rows"] == 30
    assert times["control"]["ratio"] == pytest.approx(1 / 10)
    assert document["verdict"] == "passed"
    assert document["reasons"]
    assert document["limits"] == limits.values(Criteria())


def test_drop_in_the_metrics_is_the_one_that_its_gate_judged() -> None:
    document = documented(0)
    for name in ("audit_accuracy", "retain_accuracy"):
        drop = document["metrics"][f"{name}_drop"]["value"]
        reason = next(g["reason"] for g in document["gates"] if g["gate"] == name)
        assert f"changed by {-100 * drop + 0.0:+.2f} points" in reason


def test_references_that_saw_a_part_of_the_rows_are_marked() -> None:
    metrics = documented(3, reference_share=0.5)["metrics"]
    assert all(m["reference_training_share"] == 0.5 for m in metrics.values())
    alone = documented(1, reference_share=0.5)["metrics"]
    assert all(m["reference_training_share"] == 0.5 for m in alone.values())
    assert "reference_training_share" not in documented(3)["metrics"]["membership_auc"]
    nobody = documented(0, reference_share=0.5)["metrics"]
    assert not any("reference_training_share" in m for m in nobody.values())


def test_a_class_report_says_that_the_answer_alone_may_have_gone() -> None:
    of_class, of_records = documented(0, kind="class"), documented(0)
    (more,) = set(of_class["does_not_show"]) - set(of_records["does_not_show"])
    assert "keeps the class out of its answers" in more


def test_a_forgotten_class_is_no_part_of_the_audit_rows_in_the_table() -> None:
    """They are excluded like the class's other rows, and figures are shown by what is left."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 40)
    models = [
        ModelScores(
            forget=scores(rng.exponential(size=30)),
            audit=scores(rng.exponential(size=80), label=label, rows=np.arange(80) + 100),
        )
        for _ in range(2)
    ]
    found = verify(*models, changed=True, lineage_clean=True, kind="class")
    for name, model in zip(("unlearned", "control"), models, strict=True):
        table = found.to_json()["sets"][name]["audit"]
        assert table["rows"] == 40
        assert table["loss"] == pytest.approx(model.audit.loss[40:].mean())


def test_worst_records_are_the_rows_that_look_most_like_members() -> None:
    reference = drawn(0, forget=60, audit=300)
    loss = reference.forget.loss.copy()
    loss[[4, 17]] /= 1e4
    kept = ModelScores(scores(loss, rows=np.arange(60) + 1000), reference.audit)
    named = ModelScores(scores(reference.forget.loss, rows=np.arange(60) + 1000), reference.audit)
    found = verify(kept, named, changed=True, lineage_clean=True, references=[named])
    worst = found.to_json()["metrics"]["calibrated_membership_auc"]["worst_records"]
    assert {record["row"] for record in worst[:2]} == {1004, 1017}
    assert worst[0]["score"] > worst[0]["control"]


def test_numbers_that_do_not_exist_are_null() -> None:
    found = verify(
        drawn(0, forget=3, audit=50),
        drawn(0, forget=3, audit=50),
        changed=True,
        lineage_clean=True,
        drift=Drift(float("nan"), 3, 100, 0.1),
    ).to_json()
    assert found["drift"]["relative_distance"] is None
    assert found["drift"]["validation_loss_rise"] is None
    json.dumps(found, allow_nan=False)


def test_stored_evidence_gives_the_same_verification_again() -> None:
    new, old = full(1, 0.0), full(1, 0.9)
    stored = [ModelScores.from_arrays(m.to_arrays()) for m in (new, old)]
    first = verify(new, old, changed=True, lineage_clean=True)
    second = verify(*stored, changed=True, lineage_clean=True, earlier=[Evidence(*stored)])
    assert second.to_json() == first.to_json()


def test_a_batch_without_forget_rows_is_refused() -> None:
    empty = drawn(0, forget=0, audit=50)
    with pytest.raises(WrongOptions, match="no forget rows"):
        verify(empty, empty, changed=True, lineage_clean=True)


def test_never_seen_rows_of_other_classes_only_are_no_power() -> None:
    model = ModelScores(forget=scores(np.ones(50), label=np.full(50, 3)), audit=scores(np.ones(90)))
    found = verify(model, model, changed=True, lineage_clean=True)
    assert str(found.verdict) == "no_power"
    assert found.pooled["unmatched_rows"] == 50
    assert "never-seen rows of its class" in found.to_json()["reasons"][0]


def test_limits_have_schemas_and_impossible_ones_are_refused() -> None:
    assert limits.schema_of(gates.get("membership"))["properties"]["membership_auc"]["maximum"] == 1
    criteria = limits.parse({"membership_auc": 0.05, "least_rows": 12})
    assert criteria.least_rows == 12
    values = limits.values(criteria)
    assert values == limits.values(Criteria()) | {"membership_auc": 0.05, "least_rows": 12}
    for wrong in ({"confidence": 1.0}, {"membership_auc": 1.1}, {"membership_auc": True}):
        with pytest.raises(WrongOptions, match=next(iter(wrong))):
            limits.parse(wrong)
    with pytest.raises(WrongOptions, match=r"no installed gate has membrship; .*membership_auc"):
        limits.parse({"membrship": 0.1})


@pytest.mark.parametrize(
    ("forget_steps", "outcome"), [(2, Verdict.FAILED), (40, Verdict.PASSED), (None, None)]
)
def test_rows_relearned_at_once_fail_although_never_seen_ones_are_not_relearned(
    forget_steps: int | None, outcome: Verdict | None
) -> None:
    found = verify(
        full(0, 0.0),
        full(0, 0.9),
        changed=True,
        lineage_clean=True,
        relearn=RelearnTime(forget_steps, None, 30, most_steps=100),
    )
    judged = {one.gate: one.outcome for one in found.outcomes}
    assert judged.get("relearn_time") is outcome
