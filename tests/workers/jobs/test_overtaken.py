"""Workers that overtake each other, stop, or find production moved meanwhile."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from models_store import open_store
from service.ledger.batches import claims, leases
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.registry import versions
from tests.workers.forgetting import (
    assert_forgotten_once,
    clock_ahead,
    first_deletion,
    work_through,
)
from tests.workers.place import Place
from workers.compute.process import Stopping
from workers.jobs import computing, pipeline, recording


def test_second_worker_leaves_a_model_alone_that_is_worked_on(town: Place) -> None:
    request = town.ask(town.training_rows()[0])
    with town.runtime.lease(leases.of_model(town.model().id)) as held:
        assert held is not None
        assert not pipeline.run_model(town.second(), town.model().id, trains=False)
    assert town.request(request).status == RequestStatus.ACCEPTED
    assert town.batches() == []


def test_overtaken_worker_drops_its_work(town: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one's clock is an hour ahead, so it takes the batch over at once."""
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    with town.begun() as (held, claimed):
        with clock_ahead(monkeypatch):
            pipeline.run_due(town.second())
        assert town.live().number == 2
        with pytest.raises(leases.LeaseLost):
            computing.unlearn(town.runtime, held, claimed, trains=False)
        pipeline._hand_back(town.runtime, held, claimed, because="late")
        pipeline._fail(town.runtime, held, claimed, RuntimeError("late"))
    assert_forgotten_once(town, request, rows)
    assert [version.number for version in town.versions()] == [1, 2]
    assert [batch.status for batch in town.batches()] == [BatchStatus.COMPLETED]


def test_worker_that_was_overtaken_before_it_claims_leaves_the_batch_alone(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    model_id = town.model().id
    with town.runtime.lease(leases.of_model(model_id)) as held:
        assert held is not None
        with clock_ahead(monkeypatch):
            pipeline.run_due(town.second())
        with town.runtime.session() as session, pytest.raises(leases.LeaseLost):
            claims.claim(
                session, session.get_one(Model, model_id), held=held, now=town.runtime.now()
            )
    assert_forgotten_once(town, request, rows)
    assert [batch.status for batch in town.batches()] == [BatchStatus.COMPLETED]


def test_stopping_worker_hands_its_batch_back_uncounted(town: Place) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    with town.begun() as (held, claimed):
        town.runtime.stopped_at = 0.0
        town.runtime.stop.set()
        with pytest.raises(Stopping):
            town.runtime.heed_stop()
        pipeline._hand_back(town.runtime, held, claimed, because="stopping")
    share = town.share(request)
    assert (share.status, share.attempts) == (ErasureStatus.PENDING, 0)
    pipeline.run_due(town.second())
    assert_forgotten_once(town, request, rows)


def test_production_moved_by_hand_in_the_middle_is_respected(town: Place) -> None:
    """The batch is handed back and done again on the version that is live then."""
    with town.runtime.session() as session:
        first = town.live()
        model = session.scalars(select(Model)).one()
        other = versions.register(
            session,
            model,
            origin="imported",
            digest=first.digest,
            size_bytes=first.size_bytes,
            data_revision=0,
            seed=0,
            code_version="0",
            now=town.runtime.now(),
            actor="key:k",
        )
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    with town.begun() as (held, claimed):
        with town.runtime.session() as session:
            versions.promote(
                session,
                session.scalars(select(Model)).one(),
                session.get_one(Version, other.id),
                expected_production=first.id,
                reason="by hand",
                actor="key:k",
                now=town.runtime.now(),
            )
        with pytest.raises(versions.ProductionMoved):
            computing.unlearn(town.runtime, held, claimed, trains=False)
        pipeline._hand_back(town.runtime, held, claimed, because="production was moved by hand")
    work_through(town)
    assert_forgotten_once(town, request, rows)
    assert town.live().anchor_id == other.id


def test_batch_without_rows_is_not_completed_on_a_version_that_is_no_longer_live(
    town: Place,
) -> None:
    earlier = first_deletion(town)
    with town.runtime.session() as session:
        dataset = session.scalars(select(Dataset)).one()
        key = dataset.array_key
    assert key is not None
    request = town.ask(town.training_rows()[-1])
    with town.begun() as (held, claimed):
        with town.runtime.session() as session:
            model = session.scalars(select(Model)).one()
            model.production_id = model.production_id - 1 if model.production_id else None
        with pytest.raises(versions.ProductionMoved):
            recording.complete_without_update(town.runtime, held, claimed)
    assert town.share(request).status == ErasureStatus.CLAIMED
    assert open_store(town.settings.store).rows.erased(key).tolist() == earlier


def test_withdrawn_versions_are_named_in_the_alias_history_only(town: Place) -> None:
    first_deletion(town)
    first, second = town.versions()
    assert (first.status, second.status) == (VersionStatus.RETIRED, VersionStatus.PUBLISHED)
    assert [move.version_id for move in town.moves()] == [first.id, second.id]
    assert [move.previous_id for move in town.moves()] == [None, first.id]
