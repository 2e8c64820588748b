"""A withdrawal and a batch that records its version, at the same moment, in both orders."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, Select, select, text

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Batch, Dataset, DeletionRequest, Erasure, Model, Version
from service.ledger.destruction import purges
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.messages.unlearn import Answer
from tests import factories
from tests.service.api import callers
from tests.workers.world import INACCURATE, REJECTED, STEPPED, World, missed
from tests.workers.writers import Writer
from workers.jobs import claiming, recording

pytestmark = pytest.mark.postgres

ANSWERS = pytest.mark.parametrize(
    "answer",
    [STEPPED, INACCURATE, REJECTED],
    ids=["promoted", "held", "rejected"],
)
WITHDRAWALS = pytest.mark.parametrize("what", ["model", "version"])


@pytest.fixture
def world(postgres_database: Engine, tmp_path: Path) -> World:
    return World.found(postgres_database, tmp_path)


@pytest.fixture
def app(world: World, tmp_path: Path) -> Iterator[FastAPI]:
    with callers.application(callers.settings_on(world.engine, tmp_path / "api")) as made:
        yield made


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    made = callers.client(app)
    made.raise_server_exceptions = False  # type: ignore[attr-defined]  # an error must be a 500
    return made


class Race:
    """A batch that is about to record its version, and somebody who withdraws."""

    def __init__(
        self, world: World, client: TestClient, what: str, answer: Callable[[Path], Answer]
    ) -> None:
        self.world, self.client, self.what, self.answer = world, client, what, answer
        self.answered: list[tuple[int, str]] = []
        self.recorded: list[Any] = []
        with world.transaction() as session:
            self.model_id = world.models[0]
            self.name = session.get_one(Model, self.model_id).name
            self.request_id = str(_ask(session, world.datasets[0])["id"])
        writer = Writer(world, world.worker("w"), random.Random(1))
        with claiming.begun(writer.runtime, self.model_id, trains=False) as found:
            assert found is not None
            self.held, self.claimed = found
        # As it is while it computes: the lease is held again, with the fence of the batch.
        with world.transaction() as session:
            session.execute(
                text("UPDATE leases SET owner = :owner, until = now() + interval '1 h'"),
                {"owner": self.held.owner},
            )
        self.runtime = writer.runtime

    def record(self) -> None:
        [attempt, *_] = self.claimed.methods
        try:
            self.recorded.append(
                recording.record(
                    self.runtime,
                    self.held,
                    self.claimed,
                    attempt.choice,
                    self.claimed.request,
                    self.answer(self.world.settings.store),
                    following=None,
                )
            )
        except leases.LeaseLost as lost:
            self.recorded.append(lost)

    def withdraw(self) -> None:
        url = f"/v1/models/{self.name}"
        if self.what == "model":
            answer = self.client.delete(url)
        else:
            answer = self.client.post(f"{url}/versions/1:withdraw", json={})
        self.answered.append((answer.status_code, answer.text))

    def run(
        self, first: Callable[[], None], second: Callable[[], None], stall: Select[Any]
    ) -> None:
        """``first`` waits for the stalled rows, with its lease; then ``second`` waits for it."""
        threads = [threading.Thread(target=act) for act in (first, second)]
        with db.session_factory(self.world.engine).begin() as session:
            session.execute(stall.with_for_update()).all()
            for count, thread in enumerate(threads, start=1):
                thread.start()
                _until_waiting(self.world, count)
        for thread in threads:
            thread.join()

    def assert_ended(self) -> None:
        """Nothing runs or waits, and everything that is not live is to be destroyed in time."""
        [(status, body)] = self.answered
        assert status == 202, body
        with self.world.transaction() as session:
            model = session.get_one(Model, self.model_id)
            found = session.scalars(select(Version).where(Version.model_id == model.id)).all()
            live = (
                None
                if model.production_id is None
                else session.get_one(Version, model.production_id)
            )
            # The anchor of a live version is destroyed once nothing live steps from it.
            needed = set() if live is None else {live.id, live.anchor_id}
            over = purges.due(session, now=db.now() + timedelta(days=400))
            assert {one.id for one in found} - needed == set(over)
            batch = session.get_one(Batch, self.claimed.batch_id)
            assert batch.status in (BatchStatus.COMPLETED, BatchStatus.FAILED)
            request = session.get_one(DeletionRequest, self.request_id)
            assert request.status == RequestStatus.PROCESSING
            [share] = session.scalars(select(Erasure).where(Erasure.request_id == request.id))
            assert not share.is_open
        writer = Writer(self.world, self.world.worker("v"), random.Random(2))
        writer.erase()
        with self.world.transaction() as session:
            request = session.get_one(DeletionRequest, self.request_id)
            assert request.status == RequestStatus.COMPLETED
            assert missed(session) == []


def _ask(session: Any, name: str) -> dict[str, Any]:
    data = session.scalars(select(Dataset).filter_by(name=name)).one()
    return intake.record(
        session,
        Ask(data.name, "records", ("r7",)),
        principal="key_test",
        digester=factories.DIGESTER,
        now=db.now(),
    ).answer


def _until_waiting(world: World, count: int) -> None:
    wanted = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(3000):
        with world.transaction() as session:
            if session.execute(wanted).scalar_one() >= count:
                return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits for a lock")


@ANSWERS
@WITHDRAWALS
def test_withdrawal_after_a_version_that_is_being_recorded_takes_it_back_too(
    world: World, client: TestClient, what: str, answer: Callable[[Path], Answer]
) -> None:
    race = Race(world, client, what, answer)
    shares = select(Erasure).where(Erasure.request_id == race.request_id)
    race.run(race.record, race.withdraw, shares)
    assert race.recorded == [(answer is not REJECTED, race.recorded[0][1])]
    race.assert_ended()
    with world.transaction() as session:
        model = session.get_one(Model, race.model_id)
        versions = session.scalars(select(Version).where(Version.model_id == model.id)).all()
        [made] = [one for one in versions if one.number == 2]
        if what == "version" and answer is STEPPED:
            # Version 1, which was asked to go, had been replaced: its successor goes on.
            assert model.production_id == made.id
        else:
            assert model.production_id is None
            assert made.status in (VersionStatus.WITHDRAWN, VersionStatus.REJECTED)


@ANSWERS
@WITHDRAWALS
def test_version_that_is_recorded_after_a_withdrawal_is_dropped(
    world: World, client: TestClient, what: str, answer: Callable[[Path], Answer]
) -> None:
    race = Race(world, client, what, answer)
    request = select(DeletionRequest).where(DeletionRequest.id == race.request_id)
    race.run(race.withdraw, race.record, request)
    assert isinstance(race.recorded[0], leases.LeaseLost)
    race.assert_ended()
    with world.transaction() as session:
        model = session.get_one(Model, race.model_id)
        assert model.production_id is None
        [only] = session.scalars(select(Version).where(Version.model_id == model.id))
        assert only.status == VersionStatus.WITHDRAWN


def test_hold_on_a_version_that_is_withdrawn_meanwhile_is_given_up(
    world: World, client: TestClient
) -> None:
    """Production was moved by hand, so that the base of the batch is not what is live."""
    race = Race(world, client, "version", INACCURATE)
    with world.transaction() as session:
        factories.version(session, session.get_one(Model, race.model_id))
    shares = select(Erasure).where(Erasure.request_id == race.request_id)
    race.run(race.record, race.withdraw, shares)
    assert [done for done, _ in race.recorded] == [True]
    assert [status for status, _ in race.answered] == [202]
    with world.transaction() as session:
        versions = session.scalars(select(Version).where(Version.model_id == race.model_id))
        assert {one.number: one.status for one in versions} == {
            1: VersionStatus.WITHDRAWN,
            2: VersionStatus.PUBLISHED,
            3: VersionStatus.REJECTED,
        }
        batch = session.get_one(Batch, race.claimed.batch_id)
        assert batch.status == BatchStatus.FAILED
        [share] = session.scalars(select(Erasure).where(Erasure.request_id == race.request_id))
        assert share.status == ErasureStatus.PENDING
