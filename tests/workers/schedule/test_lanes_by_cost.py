"""What trains never stands before a step: batches that train have a lane of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from models_store import open_store
from service import audit_file
from service.ledger.audit import canonical
from service.ledger.audit.signing import Signer
from service.ledger.database.states import BatchStatus, RequestStatus
from service.ledger.database.tables import Artifact, AuditEvent, Model, Version
from service.ledger.registry import datasets, internal_state, models
from service.ledger.registry.policy import Margins, Policy
from service.ledger.reports import report
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import running, until
from workers.demo import digits as demo_digits
from workers.fault_points import InjectedFault
from workers.jobs import ingest, pipeline, prepare, train
from workers.schedule import lanes

#: It races the lanes of real processes: `make test-faults`.
pytestmark = pytest.mark.slow

# A retrain whose seed costs it accuracy is not to be held here.
RETRAINS = {"fallbacks": [{"method": "retrain"}], "on_accuracy_drop": "promote"}


def second_model(town: Place) -> None:
    """Model ``other`` on a dataset of its own, trained and prepared."""
    with town.runtime.session() as session:
        datasets.create(
            session,
            "others",
            source={"path": demo_digits.FILE},
            actor="key:test",
            now=town.runtime.now(),
        )
    ingest.run_due(town.runtime)
    with town.runtime.session() as session:
        made = models.create(
            session,
            "other",
            dataset="others",
            architecture="mlp",
            parameters={"hidden": [16]},
            transform={"scale": 1 / 16},
            recipe={"epochs": 12, "learning_rate": 0.01, "alpha": 0},
            policy=Policy(max_wait_seconds=0, margins=Margins(splits=0)),
            actor="key:test",
            now=town.runtime.now(),
        )
        runs.create(session, made, seed=1, actor="key:test", now=town.runtime.now())
    prepare.describe_due(town.runtime)
    train.run_due(town.runtime)
    prepare.run_due(town.runtime)


def ask(town: Place, dataset: str, row: int) -> str:
    with town.runtime.session() as session:
        receipt = intake.record(
            session,
            Ask(dataset=dataset, kind="records", record_ids=(f"digit-{row:04d}",)),
            principal="key_test",
            digester=town.runtime.digester,
            now=town.runtime.now(),
        )
    return str(receipt.answer["id"])


def live(town: Place, model: str) -> Version:
    with town.runtime.session() as session:
        found = session.scalars(select(Model).filter_by(name=model)).one()
        return session.get_one(Version, found.production_id)


def completed(town: Place, request: str) -> bool:
    return town.request(request).status == RequestStatus.COMPLETED


def test_step_of_one_model_is_done_while_the_fallback_of_another_trains(
    town: Place, tmp_path: Path
) -> None:
    town.change_policy(**RETRAINS)
    second_model(town)
    rows = town.training_rows()[:3]
    town.arm("compute.updated", "fault")  # the step of ``m`` fails, so its fallback is asked
    town.arm("batch.left_to_training", "wait")
    settings = town.settings.model_copy(update={"poll_seconds": 0.1, "grace_seconds": 1.0})
    with running(settings, tmp_path / "worker.log"):
        slow = ask(town, "digits", rows[0])
        until(lambda: not town.armed("batch.left_to_training"), "leaving the batch")
        town.arm("compute.loaded", "wait")  # holds the training
        (town.faults / "batch.left_to_training.go").touch()
        until(lambda: not town.armed("compute.loaded"), "the beginning of the training")
        quick, same = ask(town, "others", rows[1]), ask(town, "digits", rows[2])
        until(lambda: completed(town, quick), "the other model's deletion")
        assert live(town, "other").method == "iau"
        assert town.request(slow).status == RequestStatus.PROCESSING
        assert town.request(same).status == RequestStatus.ACCEPTED
        (town.faults / "compute.loaded.go").touch()
        until(lambda: completed(town, slow) and completed(town, same), "the held deletions")
    retrained = next(v for v in town.versions() if v.method == "retrain")
    assert "InjectedFault" in retrained.notes["passed_over"][0]
    assert live(town, "m").parent_id == retrained.id


def test_batch_left_to_training_counts_no_attempt_and_no_method_twice(town: Place) -> None:
    town.change_policy(**RETRAINS)
    request = town.ask(town.training_rows()[0])
    town.arm("compute.updated", "fault")
    pipeline.run_steps_due(town.runtime)
    (left,) = town.batches()
    assert (left.status, left.trains, left.attempts) == (BatchStatus.RUNNING, True, 1)
    # Neither taken back by the lane that left it nor joined by a second batch.
    later = town.ask(town.training_rows()[1])
    pipeline.run_steps_due(town.second())
    assert [batch.id for batch in town.batches()] == [left.id]
    pipeline.run_trainings_due(town.second())
    assert completed(town, request)
    assert town.batches()[0].attempts == 1
    assert [(v.number, v.method) for v in town.versions()] == [(1, None), (2, "retrain")]
    # The next one is a step again, whichever lane made the version before.
    assert not pipeline.run_trainings_due(town.runtime)
    town.change_policy(method="scrub")
    pipeline.run_steps_due(town.runtime)
    assert not completed(town, later)


@pytest.mark.parametrize("point", ["batch.left_to_training", "batch.computing", "batch.computed"])
def test_worker_may_die_on_either_side_of_the_hand_over(town: Place, point: str) -> None:
    town.change_policy(**RETRAINS)
    request = town.ask(town.training_rows()[0])
    town.arm("compute.updated", "fault")
    if point == "batch.left_to_training":
        town.arm(point, "fault")
        with pytest.raises(InjectedFault):
            pipeline.run_steps_due(town.runtime)
        attempts = 1
    else:
        pipeline.run_steps_due(town.runtime)
        town.arm(point, "fault")
        with pytest.raises(InjectedFault):
            pipeline.run_trainings_due(town.runtime)
        attempts = 2
    pipeline.run_steps_due(town.second())
    assert not completed(town, request)
    pipeline.run_trainings_due(town.second())
    assert completed(town, request)
    (batch,) = town.batches()
    assert batch.attempts == attempts
    assert live(town, "m").method == "retrain"


@pytest.mark.parametrize("method", ["retrain", "fine_tune"])
def test_method_that_trains_is_left_to_its_lane_before_it_begins(town: Place, method: str) -> None:
    town.change_policy(method=method)
    town.ask(town.training_rows()[0])
    pipeline.run_steps_due(town.runtime)
    (batch,) = town.batches()
    assert (batch.trains, batch.tried) == (True, [])
    with town.runtime.session() as session:
        written = session.scalars(select(AuditEvent).filter_by(action="batch:left_to_training"))
        assert [line.data for line in written] == [{"methods_tried": 0}]


def test_deletion_that_comes_before_its_anchor_is_prepared_waits_for_the_preparation(
    town: Place,
) -> None:
    with town.runtime.session() as session:
        cache = session.scalars(select(Artifact).filter_by(kind="caches")).one()
        session.delete(cache)
    request = town.ask(town.training_rows()[0])
    pipeline.run_steps_due(town.runtime)
    (batch,) = town.batches()
    assert batch.trains
    lanes.make("trainings", town.runtime).run()
    assert completed(town, request)
    first, second = town.versions()
    assert (second.method, second.notes["strength_from"]) == ("iau", "search")
    with town.runtime.session() as session:
        assert internal_state.newest(session, first.id, "caches") is not None
    # By the preparation and not by the batch on its way.
    assert "prepare" in first.timings


def test_anchor_whose_cache_is_damaged_is_prepared_again_in_the_trainings_lane(
    town: Place,
) -> None:
    with town.runtime.session() as session:
        damaged = internal_state.newest(session, live(town, "m").id, "caches")
    assert damaged is not None
    town.runtime.compute.kill()  # it remembers what it has read before
    town.damage("caches", damaged.digest)
    request = town.ask(town.training_rows()[0])
    pipeline.run_steps_due(town.runtime)
    (batch,) = town.batches()
    assert (batch.status, batch.trains, batch.tried) == (BatchStatus.RUNNING, True, [])
    # It is as if the anchor had never been prepared; the receipt says what became of the file.
    assert open_store(town.settings.store).blobs.digests("caches") == []
    with town.runtime.session() as session:
        line = session.scalars(select(AuditEvent).filter_by(action="version:state_destroyed")).one()
    assert line.data["receipt"]["destroyed"] == [{"kind": "caches", "digest": damaged.digest}]
    assert lanes.TRAININGS[0](town.second())
    prepared = open_store(town.settings.store).blobs.digests("caches")
    assert len(prepared) == 1
    lanes.make("trainings", town.second()).run()
    assert completed(town, request)
    assert live(town, "m").method == "iau"
    # By the preparation and not by the batch on its way.
    assert open_store(town.settings.store).blobs.digests("caches") == prepared
    # Whoever checks the report does not take the anchor's weights for destroyed.
    with town.runtime.session() as session:
        told = report.report(
            session,
            session.get_one(Version, live(town, "m").id),
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    assert {"kind": "weights", "version": 1}.items() <= told["remaining"][0].items()
    checked = audit_file.verify_bytes(canonical.encode(told))
    assert checked.ok, checked.lines()


def test_damaged_cache_does_not_keep_a_step_that_needs_none_waiting(town: Place) -> None:
    """A step that does not start from the anchor stays a step."""
    town.change_policy(method="ssd", fallbacks=[])
    with town.runtime.session() as session:
        damaged = internal_state.newest(session, live(town, "m").id, "caches")
    assert damaged is not None
    town.runtime.compute.kill()
    town.damage("caches", damaged.digest)
    town.ask(*town.training_rows()[:3])
    pipeline.run_steps_due(town.runtime)
    assert not any(batch.trains for batch in town.batches())
    assert "ssd" in [version.method for version in town.versions()]


def test_preparation_holds_the_lease_of_its_model(town: Place) -> None:
    """No batch of the model runs, so no row is erased, while a preparation reads them."""
    with town.runtime.session() as session:
        session.delete(session.scalars(select(Artifact).filter_by(kind="caches")).one())
    town.arm("prepare.computed", "fault")
    with pytest.raises(InjectedFault):
        prepare.run_due(town.runtime)
    with town.runtime.lease(f"model:{town.model().id}") as held:
        assert held is not None
        assert not prepare.run_due(town.second())
    assert prepare.run_due(town.second())
