"""Work a place's requests off, and what holds of each one afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select

from service.ledger.audit import chain
from service.ledger.batches import queue
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Model
from service.ledger.registry import forgotten
from tests.workers.place import Place
from workers.fault_points import InjectedFault
from workers.jobs import erase, pipeline


def work_through(town: Place, *, rounds: int = 30) -> None:
    """Work as the lane does: whatever a recipe raises, the next round goes on."""
    for _ in range(rounds):
        try:
            pipeline.run_due(town.runtime)
        except InjectedFault:
            continue
        with town.runtime.session() as session:
            if not queue.due_models(session, now=town.runtime.now()):
                break
    erase.run_due(town.runtime)


def assert_forgotten_once(town: Place, request_id: str, rows: list[int]) -> None:
    """The promise: one completed batch, production without the rows, the rows overwritten."""
    assert town.request(request_id).status == RequestStatus.COMPLETED
    assert town.forgotten() == rows
    live = town.live()
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, live) == []
        assert chain.verify(session).sound
    array = town.array()
    assert not array.rows[rows].any()
    assert [move.version_id for move in town.moves()].count(live.id) == 1


@contextmanager
def clock_ahead(monkeypatch: pytest.MonkeyPatch, seconds: int = 3600) -> Iterator[None]:
    """Have workers read a clock that is ahead, so that every lease of others has expired."""
    with monkeypatch.context() as patch:
        patch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", str(seconds))
        yield


def first_deletion(town: Place) -> list[int]:
    rows = town.training_rows()[:3]
    town.ask(*rows)
    town.work()
    return rows
