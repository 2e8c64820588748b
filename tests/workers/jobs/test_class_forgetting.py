"""A whole class forgotten, from the request to the overwritten rows of every split."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import select

from models_store import open_store
from service.errors import Unprocessable
from service.ledger.database.states import BatchStatus, RequestStatus
from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.registry import forgotten
from service.ledger.reports import verifications
from service.ledger.training import consolidation, runs
from service.messages.train import TRAIN
from tests.workers.place import LENIENT, Place
from workers.jobs import pipeline, training_request, training_result

CLASS = 3


def rows_of(town: Place, label: int, split: int | None = None) -> list[int]:
    array = town.array()
    here = np.asarray(array.labels) == label
    if split is not None:
        here &= np.asarray(array.splits) == split
    return np.flatnonzero(here).tolist()


def measured(town: Place) -> dict:
    with town.runtime.session() as session:
        found = verifications.of(session, town.live())
        assert found is not None
        return found.measured


@pytest.mark.parametrize("method", ["iau", "boundary_shrink", "retrain"])
def test_class_is_gone_from_model_and_data(town: Place, method: str) -> None:
    town.change_policy(method=method, auto_consolidate=False)
    everywhere, never_seen = rows_of(town, CLASS), rows_of(town, CLASS, split=2)
    others = np.setdiff1d(np.arange(len(town.array())), everywhere)
    before = np.array(town.array().rows[others])
    request = town.ask_for_class(CLASS)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.batches()[0].kind == "class"
    found = measured(town)
    assert found["kind"] == "class"
    assert found["verdict"] == "passed", found["reasons"]
    for gate in ("class_accuracy", "class_accuracy_never_seen"):
        assert found["metrics"][gate]["value"] <= 0.03 < found["metrics"][gate]["control"]["value"]
    assert found["metrics"]["class_accuracy_never_seen"]["rows"] == len(never_seen)
    assert open_store(town.settings.store).rows.erased(town.array().key).tolist() == everywhere
    assert np.array_equal(town.array().rows[others], before)


def test_class_that_goes_whole_asks_for_a_new_anchor_and_spends_no_budget(town: Place) -> None:
    """It is all of one class, and nearly a tenth of the rows; neither counts."""
    town.change_policy(gates=LENIENT, drift={"max_share": 0.05})
    count = len(rows_of(town, CLASS, split=0))
    town.ask_for_class(CLASS)
    town.work()
    live = town.live()
    assert live.method == "iau"
    assert [why for why in live.notes["retrain_because"] if "forgotten" in why] == []
    drift = measured(town)["drift"]
    assert drift["forgotten_rows"] == drift["of_whole_classes"] == count
    assert (drift["forgotten_share"], drift["largest_class_share"]) == (0, 0)
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        (reason,) = consolidation.reasons(session, model, live, now=town.runtime.now())
    assert "a whole class was forgotten" in reason


def test_records_after_a_class_lead_to_a_new_anchor(town: Place) -> None:
    """A step from the old anchor would bring the class back, so the next batch retrains."""
    town.change_policy(auto_consolidate=False, gates=LENIENT)
    town.ask_for_class(CLASS)
    town.work()
    assert town.live().method == "iau"
    left = [row for row in town.training_rows() if row not in set(rows_of(town, CLASS))]
    left = [row for row in left if town.array().rows[row].any()]
    request = town.ask(*left[:5])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    live = town.live()
    assert (live.origin, live.anchor_id) == ("retrained", live.id)
    third = town.ask(*left[5:10])
    town.work()
    assert town.request(third).status == RequestStatus.COMPLETED
    assert town.live().method == "iau"
    assert town.live().anchor_id == live.id


def test_class_that_was_forgotten_during_a_training_is_paid_by_a_retrain(town: Place) -> None:
    """The fresh anchor learned the class, and owes single records beside it."""
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        run = runs.create(session, model, seed=5, actor="key:test", now=town.runtime.now())
        run_id = run.id
    row = next(r for r in town.training_rows() if r not in set(rows_of(town, CLASS)))
    with town.runtime.lease(f"run:{run_id}") as held:
        assert held is not None
        request = training_request.start(town.runtime, run_id, held)
        assert request is not None
        answer = town.runtime.ask(TRAIN, request, held=held, timeout_seconds=60)
        town.ask_for_class(CLASS)
        town.ask(row)
        town.work()
        assert len(town.forgotten()) == len(rows_of(town, CLASS, split=0)) + 1
        assert town.array().rows[row].any()  # the fresh anchor may still need it
        training_result.record(town.runtime, run_id, held, request, answer)
    pipeline.run_due(town.runtime)
    live = town.live()
    assert (live.origin, live.method) == ("retrained", "retrain")
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, live) == []
    assert not town.array().rows[row].any()
    assert {batch.status for batch in town.batches()} == {BatchStatus.COMPLETED}


def test_scores_of_a_class_are_not_pooled_with_those_of_records(town: Place) -> None:
    town.change_policy(method="boundary_shrink", auto_consolidate=False, gates=LENIENT)
    town.ask_for_class(CLASS)
    town.work()
    left = [row for row in town.training_rows() if town.array().rows[row].any()]
    town.ask(*left[:3])
    town.work()
    assert len(town.batches()) == 2
    assert measured(town)["pooled"]["batches"] == 1


def test_method_that_forgets_records_only_is_refused(town: Place) -> None:
    town.change_policy(method="influence")
    with pytest.raises(Unprocessable) as refused:
        town.ask_for_class(CLASS)
    assert refused.value.status == 422
    assert refused.value.code == "method-cannot-forget-classes"


def test_fallback_that_cannot_forget_a_class_is_passed_over(town: Place) -> None:
    """``iau`` is made to fail; what follows it can only forget records."""
    fallbacks = [{"method": "influence"}, {"method": "retrain"}]
    town.change_policy(fallbacks=fallbacks, auto_consolidate=False)
    request = town.ask_for_class(CLASS)
    town.arm("compute.updated", "spoil")
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert [version.method for version in town.versions()] == [None, "retrain"]
    with town.runtime.session() as session:
        assert session.scalars(select(Dataset.revision)).one() == 1
        assert session.scalars(select(Version.anchor_id).order_by(Version.number)).all() == [1, 2]
