"""A verification as plain JSON."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from unlearning.errors import WrongOptions
from unlearning.verification import Drift, Evidence, Gates, ModelScores, Scores, verify
from unlearning.verification.relearn import RelearnTime

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


def test_every_part_is_json_and_has_control_and_reference() -> None:
    found = verify(
        full(0, 0.0),
        full(0, 0.9),
        changed=True,
        lineage_clean=True,
        references=[full(0, 0.02), full(0, 0.03), full(0, 0.04)],
        drift=Drift(0.02, 120, 1000, 0.3, 0.5, 0.4),
        relearn=RelearnTime(12, None),
    )
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    for name in ("membership_auc", "forget_accuracy_gap", "true_positive_rate_at_0.01"):
        metric = document["metrics"][name]
        assert metric["interval"][0] <= metric["value"] <= metric["interval"][1]
        assert metric["control"]["value"] > metric["value"]
        assert metric["reference"] is not None
        assert (metric["rows"], metric["never_seen_rows"]) == (120, 600)
    calibrated = document["metrics"]["calibrated_membership_auc"]
    assert calibrated["reference_band"][0] <= calibrated["reference_band"][1]
    assert len(calibrated["worst_records"]) == 10
    assert {"rmia_auc", "version_difference_auc", "retain_membership_change"} <= set(
        document["metrics"]
    )
    divergence = document["metrics"]["prediction_divergence_forget"]
    assert 0 < divergence["reference"]["value"] < 1
    assert set(document["sets"]["control"]) == {"forget", "audit", "retain", "calibration"}
    assert len(document["sets"]) == 5
    assert len(document["retrain_because"]) == 3
    assert document["relearn_time"] == {
        "forget_steps": 12,
        "never_seen_steps": None,
        "ratio": None,
    }
    assert document["verdict"] == "passed"
    assert document["reasons"]
    assert document["limits"] == asdict(Gates())


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


def test_gates_have_a_schema_and_refuse_impossible_limits() -> None:
    adapter = TypeAdapter(Gates)
    properties = adapter.json_schema()["properties"]
    assert properties["membership_auc"]["maximum"] == 1
    assert adapter.validate_python({"membership_auc": 0.05}).membership_auc == 0.05
    with pytest.raises(ValidationError):
        adapter.validate_python({"confidence": 1.0})
