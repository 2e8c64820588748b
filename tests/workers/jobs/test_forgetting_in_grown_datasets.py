"""Versions on a dataset that grows: each knows the rows of its time, and forgets those."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import func, select

from service.ledger.audit import chain
from service.ledger.database.states import BatchStatus, RequestStatus
from service.ledger.database.tables import (
    Batch,
    Dataset,
    Model,
    Record,
    TrainingRun,
    Version,
)
from service.ledger.reconciliation import findings
from service.ledger.registry import forgotten, imports, lineage, segments
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import consolidation, runs
from tests.workers.place import Place
from workers.jobs import pipeline, plans, prepare, train

BEFORE = 1797
ADDED = 120
#: A person of the dataset's own source, and one who came later.
OLD, NEW = "writer-3", "newcomer-0"


@pytest.fixture
def grown(town: Place) -> Place:
    """The town after 120 digits were appended; every tenth is of a person that it knew."""
    town.grow(ADDED, known=OLD)
    return town


def ask(town: Place, **what: object) -> str:
    kind = "subject" if "subject_id" in what else "class" if "label" in what else "records"
    with town.runtime.session() as session:
        receipt = intake.record(
            session,
            Ask(dataset="digits", kind=kind, **what),  # type: ignore[arg-type]
            principal="key_test",
            digester=town.runtime.digester,
            now=town.runtime.now(),
        )
    return str(receipt.answer["id"])


def rows_of(town: Place, subject: str) -> list[int]:
    """The training rows of a person."""
    with town.runtime.session() as session:
        wanted = select(Record.row).where(
            Record.subject_digest == town.runtime.digester.subject(subject), Record.split == 0
        )
        return list(session.scalars(wanted.order_by(Record.row)))


def erased(town: Place) -> list[int]:
    """The rows that are overwritten, by their numbers in the dataset."""
    with town.runtime.session() as session:
        found = segments.of(session, session.scalars(select(Dataset)).one())
    x = np.concatenate([town.runtime.store.rows.open(one.key).rows for one in found])
    return np.flatnonzero(~x.reshape(len(x), -1).any(axis=1)).tolist()


def retrain(town: Place) -> None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:test", now=town.runtime.now())
    train.run_due(town.runtime)
    prepare.run_due(town.runtime)


def held(town: Place) -> list[int]:
    """The training rows that the live version contains, according to the ledger."""
    live = town.live()
    with town.runtime.session() as session:
        wanted = select(Record.row).where(lineage.contained(session, live)).order_by(Record.row)
        return list(session.scalars(wanted))


def sound(town: Place) -> None:
    with town.runtime.session() as session:
        assert findings.everything(session) == []
        assert chain.verify(session).sound


def train_at(town: Place, revision: int) -> Version:
    """Train with the first version's seed on the rows of a revision; the version."""
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(
            session,
            model,
            seed=1,
            data_revision=revision,
            actor="key:test",
            now=town.runtime.now(),
        )
    train.run_due(town.runtime)
    return town.versions()[-1]


def test_training_at_a_revision_takes_the_rows_of_then(grown: Place) -> None:
    (first,) = grown.versions()
    again = train_at(grown, first.data_revision)
    assert (again.digest, again.data_rows) == (first.digest, BEFORE)
    assert again.data_revision > first.data_revision
    whole = train_at(grown, again.data_revision)
    assert whole.data_rows == BEFORE + ADDED
    assert whole.digest != first.digest


def test_rows_forgotten_since_the_revision_stay_out_of_its_training(grown: Place) -> None:
    (first,) = grown.versions()
    ask(grown, subject_id=OLD)
    grown.work()
    again = train_at(grown, first.data_revision)
    assert again.data_rows == BEFORE
    assert again.digest != first.digest
    assert grown.live().id == again.id
    assert not set(rows_of(grown, OLD)) & set(held(grown))
    assert max(held(grown)) < BEFORE
    sound(grown)


def test_version_of_before_keeps_its_rows_and_forgets_those_of_a_person_in_both_parts(
    grown: Place,
) -> None:
    theirs = rows_of(grown, OLD)
    before = [row for row in theirs if row < BEFORE]
    assert before
    assert len(theirs) > len(before)
    assert max(held(grown)) < BEFORE
    request = ask(grown, subject_id=OLD)
    grown.work()
    assert grown.request(request).status == RequestStatus.COMPLETED
    # The model forgot the rows that it had seen, and no others; all of them are erased.
    assert grown.forgotten() == before
    assert grown.live().origin == "unlearned"
    assert not set(theirs) & set(held(grown))
    assert set(theirs) <= set(erased(grown))
    sound(grown)


def test_rows_that_no_version_saw_are_erased_without_a_computation(grown: Place) -> None:
    live, theirs = grown.live(), rows_of(grown, NEW)
    assert min(theirs) >= BEFORE
    request = ask(grown, subject_id=NEW)
    grown.work()
    assert grown.request(request).status == RequestStatus.COMPLETED
    assert grown.live().id == live.id
    assert grown.forgotten() == []
    with grown.runtime.session() as session:
        wanted = select(Batch).where(Batch.status == BatchStatus.COMPLETED)
        assert [one.records for one in session.scalars(wanted)] == [0]
    assert set(theirs) <= set(erased(grown))
    sound(grown)


def test_new_training_takes_all_rows_and_forgets_those_of_both_parts(grown: Place) -> None:
    old = grown.live()
    retrain(grown)
    fresh = grown.live()
    assert (old.data_rows, fresh.data_rows) == (BEFORE, BEFORE + ADDED)
    with grown.runtime.session() as session:
        training = session.scalar(select(func.count()).where(Record.split == 0))
    assert sum((fresh.trained_classes or {}).values()) == training
    theirs = rows_of(grown, OLD)
    request = ask(grown, subject_id=OLD)
    grown.work()
    assert grown.request(request).status == RequestStatus.COMPLETED
    assert grown.live().number > fresh.number
    assert grown.live().data_rows == BEFORE + ADDED
    assert grown.forgotten() == theirs
    assert set(theirs) <= set(erased(grown))
    sound(grown)


def test_retrain_of_a_batch_keeps_to_the_rows_of_its_base(grown: Place) -> None:
    row = grown.training_rows()[0]
    grown.change_policy(method="retrain", fallbacks=[])
    grown.ask(row)
    grown.work()
    pipeline.run_trainings_due(grown.runtime)
    live = grown.live()
    assert live.origin == "retrained"
    assert live.data_rows == BEFORE
    assert max(held(grown)) < BEFORE
    sound(grown)


def test_version_of_before_is_measured_on_the_rows_of_its_time(grown: Place) -> None:
    with grown.runtime.session() as session:
        dataset = session.scalars(select(Dataset)).one()
        wide, narrow = (
            plans.view(session, grown.runtime.store, dataset, rows=rows, excluded=[])
            for rows in (BEFORE + ADDED, BEFORE)
        )
    assert wide.arrays[:1] == narrow.arrays
    assert len(wide.arrays) == 2


def test_class_that_is_forgotten_goes_from_both_parts(grown: Place) -> None:
    retrain(grown)
    with grown.runtime.session() as session:
        wanted = select(Record.row).where(Record.label == 4).order_by(Record.row)
        theirs = list(session.scalars(wanted))
    request = ask(grown, label=4)
    grown.work()
    pipeline.run_trainings_due(grown.runtime)
    assert grown.request(request).status == RequestStatus.COMPLETED
    assert set(theirs) <= set(erased(grown))
    assert max(theirs) >= BEFORE
    sound(grown)


def test_weights_of_before_are_imported_only_without_what_they_saw(grown: Place) -> None:
    revision = 0
    ask(grown, subject_id=NEW)
    grown.work()
    with grown.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        # The newcomer's rows were not there at that revision.
        assert imports.check(session, model, data_revision=revision) == (revision, None)
    ask(grown, subject_id=OLD)
    grown.work()
    with grown.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        with pytest.raises(forgotten.Resurrection):
            imports.check(session, model, data_revision=revision)


@pytest.mark.parametrize(
    ("limits", "trains"),
    [
        ({}, False),
        ({"rows": 81}, False),
        ({"rows": 80}, True),
        ({"share": 0.1}, False),
        ({"share": 0.05}, True),
    ],
)
def test_training_is_queued_once_enough_rows_are_new(
    grown: Place, limits: dict[str, float], *, trains: bool
) -> None:
    grown.change_policy(auto_train=limits)
    assert train.consolidate_due(grown.runtime) is trains
    assert train.consolidate_due(grown.runtime) is False  # one is queued, or none is wanted
    with grown.runtime.session() as session:
        queued = session.scalars(select(TrainingRun).where(TrainingRun.status == "queued")).all()
        assert [one.reason for one in queued] == (["consolidate"] if trains else [])
        # While the version that has seen the rows waits for something, no other is trained.
        model = session.scalars(select(Model)).one()
        for one in queued:
            runs.cancel(session, one, actor="key:test", now=grown.runtime.now())
        newest = session.scalars(select(Version).order_by(Version.number.desc())).first()
        assert newest is not None
        newest.data_rows = BEFORE + ADDED
        assert not consolidation.queue_grown(
            session, actor="worker:w", now=grown.runtime.now() + timedelta(days=2)
        )
        assert model.production_id is not None


def test_training_is_queued_once_a_new_row_is_old_enough(grown: Place) -> None:
    grown.change_policy(auto_train={"days": 7, "rows": 10_000})
    now = grown.runtime.now()
    with grown.runtime.session() as session:
        early = now + timedelta(days=6.9)
        assert consolidation.queue_grown(session, actor="worker:w", now=early) == []
        late = now + timedelta(days=7)
        [run] = consolidation.queue_grown(session, actor="worker:w", now=late)
        assert run.reason == "consolidate"
