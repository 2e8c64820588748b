"""Wait until requests, runs and the like have ended."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from service.client import Client, EndedOtherwise, StillOpen, shapes
from service.ledger.audit import chain, machines
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest, Model, TrainingRun
from service.ledger.requests import lookup
from tests import factories
from tests.service.client.conftest import Place


def test_a_request_is_waited_for_until_it_is_completed(place: Place, client: Client) -> None:
    made = client.requests.create(dataset="faces", record_ids=["r3"])
    seen: list[str] = []

    def watch(one: shapes.DeletionRequestDetail) -> None:
        seen.append(one.status)
        if len(seen) == 1:  # the worker completes it after the first look
            place.change(lambda session: _complete(session, made.id))

    done = client.requests.wait(made.id, watch=watch)
    assert (done.id, done.status) == (made.id, "completed")
    assert seen == ["accepted", "completed"]


def test_a_request_that_ends_otherwise_is_an_error(place: Place, client: Client) -> None:
    made = client.requests.create(dataset="faces", record_ids=["r3"])
    client.requests.cancel(made.id)
    with pytest.raises(EndedOtherwise, match=f"{made.id} is cancelled") as ended:
        client.requests.wait(made.id)
    assert ended.value.last.status == "cancelled"


def test_waiting_ends_with_the_time_given(place: Place, client: Client) -> None:
    made = client.requests.create(dataset="faces", record_ids=["r3"])
    with pytest.raises(StillOpen) as still:
        client.requests.wait(made.id, timeout_seconds=0.0)
    assert still.value.last.due_at.isoformat() in str(still.value)


def test_waiting_ends_with_the_due_date_if_no_time_is_given(place: Place, client: Client) -> None:
    made = client.requests.create(dataset="faces", record_ids=["r3"])
    place.change(lambda session: _due_in(session, made.id, timedelta(seconds=-1)))
    with pytest.raises(StillOpen, match=f"{made.id} is accepted"):
        client.requests.wait(made.id)


def test_a_legal_hold_is_told_of(place: Place, client: Client) -> None:
    made = client.requests.create(dataset="faces", record_ids=["r3"])
    client.requests.hold(made.id, reason_code="legal_claims", reason="case 17")
    with pytest.raises(StillOpen, match="under a legal hold"):
        client.requests.wait(made.id, timeout_seconds=0.0)
    [held] = client.requests.each_holds()
    assert (held.request, held.reason_code, held.released_at) == (made.id, "legal_claims", None)
    client.requests.release_hold(made.id, reason="case 17 is closed")
    assert list(client.requests.each_holds()) == []
    [released] = client.requests.each_holds(in_force=False)
    assert released.release_reason == "case 17 is closed"


def test_a_training_run_is_waited_for(place: Place, client: Client) -> None:
    run = client.runs.create("who")
    statuses: list[str] = []

    def watch(one: shapes.RunDetail) -> None:
        statuses.append(one.status)
        if len(statuses) == 1:
            client.runs.cancel("who", run.id)

    with pytest.raises(EndedOtherwise, match="is cancelled"):
        client.runs.wait("who", run.id, watch=watch)
    assert statuses == ["queued", "cancelled"]
    done = place.change(_finished_run)
    assert client.runs.wait("who", done).status == "completed"


def test_what_is_ready_is_not_waited_for(place: Place, client: Client) -> None:
    assert client.models.wait("who").name == "who"
    assert client.datasets.wait("faces").status == "ready"
    assert client.versions.wait("who", 1).is_production


def test_threads_may_share_a_client(place: Place, client: Client) -> None:
    found: list[str] = []

    def look() -> None:
        found.append(client.models.get("who").name)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["who"] * 4


def _complete(session: Any, request_id: str) -> None:
    """Move the request as a worker's last transaction does; a test of waiting trains nothing."""
    machines.requests.move(lookup.get(session, request_id), RequestStatus.COMPLETED)
    chain.append(
        session,
        actor="worker:w",
        action=chain.Action.DELETION_REQUEST_COMPLETED,
        subject=f"deletion_request:{request_id}",
        data={},
    )


def _due_in(session: Any, request_id: str, left: timedelta) -> None:
    session.get_one(DeletionRequest, request_id).due_at = db.now() + left


def _finished_run(session: Any) -> str:
    model = session.query(Model).filter_by(name="who").one()
    made: TrainingRun = factories.training_run(session, model)
    return made.id
