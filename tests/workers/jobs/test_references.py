"""Reference models in the background, and the calibrated attack that they make possible."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from models_store import open_store
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Artifact, Lease, Model, RecordScore
from service.ledger.reports import disclosure, verifications
from tests.stored import load
from tests.workers.place import Place
from unlearning.verification.attacks import lira
from workers.compute.references import DRAWN_OUT, WEIGHTS, draw
from workers.compute.workspace import Workspace
from workers.fault_points import InjectedFault
from workers.jobs import plans, purge, spare


def train_all(town: Place) -> list[Artifact]:
    while spare.run_due(town.runtime):
        pass
    return kept(town)


def kept(town: Place) -> list[Artifact]:
    with town.runtime.session() as session:
        found = session.scalars(select(Artifact).filter_by(kind="references"))
        return sorted(found, key=lambda one: one.notes["index"])


def measured(town: Place) -> dict[str, Any]:
    with town.runtime.session() as session:
        found = verifications.of(session, town.live())
        assert found is not None
        return found.measured


def stored(town: Place, artifact: Artifact) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Weights, and which rows the model was drawn out for."""
    named = dict(load(town.settings.store, artifact.digest))
    bits = np.unpackbits(named.pop(DRAWN_OUT), count=len(town.array())).astype(bool)
    weights = {n.removeprefix(WEIGHTS): torch.from_numpy(t.copy()) for n, t in named.items()}
    return weights, bits


@pytest.mark.parametrize(("count", "outside"), [(2, 1), (3, 1), (4, 2), (7, 3)])
def test_every_row_is_drawn_out_of_half_of_the_models(count: int, outside: int) -> None:
    drawn = draw(500, count=count, seed=1, together=[])
    assert drawn.shape == (count, 500)
    assert (drawn.sum(0) == outside).all()
    share = drawn.double().mean(1)
    assert (share - outside / count).abs().max() < 5 * (0.25 / 500) ** 0.5


def scores(town: Place) -> dict[int, dict[str, float]]:
    """The calibrated attack's scores that are stored, by row."""
    with town.runtime.session() as session:
        stored = session.scalars(select(RecordScore)).all()
        return {one.row: one.scores["calibrated_membership_auc"] for one in stored}


def scores_before_erasing(town: Place) -> dict[int, dict[str, float]]:
    """Unlearn what was asked for and stop before the raw rows are erased; their scores."""
    town.arm("erase.overwritten", "fault")
    with pytest.raises(InjectedFault):
        town.work()
    return scores(town)


def test_rows_of_one_subject_are_drawn_together() -> None:
    drawn = draw(100, count=4, seed=1, together=[[3, 50, 99], [7, 8]])
    assert (drawn[:, 3] == drawn[:, 50]).all()
    assert (drawn[:, 3] == drawn[:, 99]).all()
    assert (drawn[:, 7] == drawn[:, 8]).all()
    assert torch.equal(drawn, draw(100, count=4, seed=1, together=[[3, 50, 99], [7, 8]]))


def test_models_are_trained_one_at_a_time_until_the_policy_has_its_number(town: Place) -> None:
    assert not spare.run_due(town.runtime)
    town.change_policy(reference_models=3)
    for trained in (1, 2, 3):
        assert spare.run_due(town.runtime)
        assert len(kept(town)) == trained
    assert not spare.run_due(town.runtime)
    assert {one.version_id for one in kept(town)} == {town.live().id}
    assert len({one.digest for one in kept(town)}) == 3


def test_model_is_trained_on_allowed_rows_that_it_was_not_drawn_out_for(town: Place) -> None:
    gone = town.training_rows()[:5]
    town.ask(*gone)
    town.work()
    town.change_policy(reference_models=2)
    for artifact in train_all(town):
        _, drawn_out = stored(town, artifact)
        seen = [r for r in town.training_rows() if not drawn_out[r] and r not in gone]
        assert artifact.notes["training_rows"] == len(seen)
        digest = hashlib.sha256(np.array(seen, dtype="<i8").tobytes()).hexdigest()
        assert artifact.notes["rows_digest"] == digest


def test_attack_uses_only_models_that_never_saw_the_record(town: Place) -> None:
    """Every record's score again, in a loop over the models that were drawn out for it."""
    town.change_policy(reference_models=4, auto_consolidate=False)
    bank = [stored(town, artifact) for artifact in train_all(town)]
    base, array = town.live(), town.array()
    rows = town.training_rows()[:40]
    raw = torch.from_numpy(np.array(array.rows))
    labels = np.array(array.labels)
    town.ask(*rows)
    told = {row: one["control"] for row, one in scores_before_erasing(town).items()}
    metric = measured(town)["metrics"]["calibrated_membership_auc"]
    assert metric["references"] == 2
    assert metric["rows"] == 40
    assert sorted(told) == rows
    network = Workspace(device="cpu").fresh(plans.model(town.model())).eval()

    def odds(weights: dict[str, torch.Tensor], row: int) -> float:
        network.network.load_state_dict(weights)
        with torch.no_grad():
            p = torch.log_softmax(network(raw[row : row + 1]).double(), 1)[0, labels[row]]
        return float(lira.log_odds(-p.numpy()[None])[0])

    held = load(town.settings.store, base.digest)
    own = {name: torch.from_numpy(tensor.copy()) for name, tensor in held.items()}
    calibrated = np.array(
        [
            odds(own, row) - np.mean([odds(w, row) for w, drawn_out in bank if drawn_out[row]])
            for row in rows
        ]
    )
    scores = np.array([told[row] for row in rows])
    # The deviation that divides them is one for all rows.
    assert np.allclose(calibrated / scores, (calibrated / scores)[0], rtol=1e-4)


def test_scores_of_single_records_need_a_scope(town: Place) -> None:
    town.change_policy(reference_models=2, auto_consolidate=False)
    train_all(town)
    rows = town.training_rows()[:30]
    town.ask(*rows)
    assert sorted(scores_before_erasing(town)) == rows
    found = measured(town)
    metric = found["metrics"]["calibrated_membership_auc"]
    assert not {"worst_records", "per_record"} & set(metric)
    shown = disclosure.measured(found, None)["metrics"]["calibrated_membership_auc"]
    assert shown["value"] == metric["value"]
    # They are erased with the rows.
    town.work()
    assert scores(town) == {}


def test_predictions_are_compared_with_the_references(town: Place) -> None:
    town.change_policy(reference_models=4, auto_consolidate=False)
    train_all(town)
    town.ask(*town.training_rows()[:30])
    town.work()
    metrics = measured(town)["metrics"]
    for name in ("prediction_divergence_forget", "prediction_divergence_audit"):
        assert 0 < metrics[name]["value"] < 1
        assert metrics[name]["reference"]["value"] > 0
    assert "version_difference_auc" in metrics
    assert "retain_membership_change" in metrics


def test_small_batches_are_pooled_with_their_references(town: Place) -> None:
    town.change_policy(reference_models=2, auto_consolidate=False)
    train_all(town)
    for start in (0, 20):
        town.ask(*town.training_rows()[start : start + 20])
        town.work()
    found = measured(town)
    assert (found["pooled"]["batches"], found["pooled"]["rows"]) == (2, 40)
    assert found["metrics"]["calibrated_membership_auc"]["rows"] == 40


def test_accuracy_is_judged_against_the_anchor_too(town: Place) -> None:
    town.change_policy(auto_consolidate=False)
    for start in (0, 3):
        town.ask(*town.training_rows()[start : start + 3])
        town.work()
    found = measured(town)
    assert town.live().number == 3
    assert "audit_accuracy_since_anchor" in {gate["gate"] for gate in found["gates"]}


def test_attacks_on_the_models_are_made_where_there_are_rows_enough(town: Place) -> None:
    """A refit from ten rows on, relearning from 30, unless the policy or the network forbids it."""
    town.change_policy(auto_consolidate=False, gates={"forgotten_class_share": 1.0})
    assert _attacked(town, 0, 3) == (set(), False)
    assert _attacked(town, 3, 15) == ({"refit_membership"}, False)
    assert _attacked(town, 15, 45) == ({"refit_membership", "relearn_time"}, True)
    town.change_policy(gates={"relearn_weights": 10})
    assert _attacked(town, 45, 75) == ({"refit_membership"}, False)


def _attacked(town: Place, start: int, stop: int) -> tuple[set[str], bool]:
    """Forget these rows; return the gates about attacks, and whether rows were relearned."""
    town.ask(*town.training_rows()[start:stop])
    town.work()
    found = measured(town)
    gates = {gate["gate"] for gate in found["gates"]}
    return gates & {"refit_membership", "relearn_time"}, found["relearn_time"] is not None


def test_damaged_reference_is_no_reason_to_wait(town: Place) -> None:
    town.change_policy(reference_models=2)
    digest = train_all(town)[0].digest
    town.runtime.compute.kill()
    town.damage("checkpoints", digest)
    request = town.ask(*town.training_rows()[:30])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert "calibrated_membership_auc" not in measured(town)["metrics"]


def test_references_go_with_their_anchor(town: Place) -> None:
    town.change_policy(reference_models=2, method="retrain")
    digests = [one.digest for one in train_all(town)]
    assert all((town.settings.store / "checkpoints" / digest).exists() for digest in digests)
    town.ask(town.training_rows()[0])
    town.work()
    assert purge.run_due(town.runtime)
    assert not any((town.settings.store / "checkpoints" / digest).exists() for digest in digests)
    assert all(one.destroyed_at is not None for one in kept(town))
    assert open_store(town.settings.store).rows.erased(town.array().key).tolist() == [
        town.training_rows()[0]
    ]


def test_training_that_fails_is_not_tried_again_at_once(town: Place) -> None:
    town.change_policy(reference_models=2)
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        model.recipe = {**model.recipe, "epochs": -1}
    assert not spare.run_due(town.runtime)
    key = f"references-pause:{town.live().id}"
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        model.recipe = {**model.recipe, "epochs": 1}
        pause = session.get_one(Lease, key)
    assert pause.until > town.runtime.now()
    assert not spare.run_due(town.runtime)
    with town.runtime.session() as session:
        session.delete(session.get_one(Lease, key))
    assert spare.run_due(town.runtime)
