"""Callbacks to a real receiver over real sockets; the clock and the pauses are the test's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from service.ledger.audit import chain
from service.ledger.audit.machines import reopened_requests
from service.ledger.audit.machines import requests as machine
from service.ledger.batches import leases
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest, OpenDsrCallback
from service.ledger.opendsr import callbacks, requests
from service.ledger.registry import keys
from service.settings import Settings
from tests import certificates, factories
from tests.workers.opendsr_office import ALLOWED, Office, check, states
from tests.workers.receiver import Received
from workers.jobs import opendsr
from workers.jobs.opendsr import Sender
from workers.runtime import Runtime

PROGRAM = """
import sys
from service.settings import Settings
from workers.jobs.opendsr import Sender
from workers.runtime import Runtime
Sender(Runtime.make(Settings(_env_file=None))).run()
"""


@pytest.fixture
def office(settings: Settings, database: Engine, tmp_path: Path) -> Iterator[Office]:
    pair = certificates.pair()
    patient = {"webhook_timeout_seconds": 60.0, "lease_seconds": 600.0}
    mine = pair.settings(settings, tmp_path, **ALLOWED, **patient)
    runtime = Runtime.make(mine, engine=database)
    with runtime.session() as session:
        key, _ = keys.create(session, "shop", ["requests:write"], actor="cli")
        data = factories.dataset(session, subjects=[*["ann"] * 6, *["ben"] * 6])
        factories.version(session, factories.model(session, data))
    with ExitStack() as receivers:
        yield Office(runtime, pair, receivers, key.id)


def test_every_new_state_is_told_to_every_url_signed(office: Office) -> None:
    first, second = office.receiver(), office.receiver()
    asked = office.ask(first.url, second.url)
    # The answer to the request has told that it is pending.
    assert not office.send()
    office.move(RequestStatus.PROCESSING)
    assert office.send()
    office.move(RequestStatus.COMPLETED)
    assert office.send()
    assert not office.send()
    for to in (first, second):
        assert states(to) == ["in_progress", "completed"]
        for one in to.received:
            check(one, office.pair, to.url)
            assert one.headers["content-type"] == "application/json"
            assert set(one.event) == {
                "controller_id",
                "expected_completion_time",
                "status_callback_url",
                "subject_request_id",
                "request_status",
            }
            assert one.event["controller_id"] == "shop"
            assert one.event["subject_request_id"] == asked
    assert all(row.ended_at is not None for row in office.rows())


def test_a_cancellation_and_an_unknown_person_are_told(office: Office) -> None:
    to = office.receiver()
    office.cancel(office.ask(to.url))
    assert office.send()
    office.ask(to.url, people=("nobody",))
    assert office.send()
    assert states(to) == ["cancelled", "completed"]


def test_of_several_people_the_last_one_decides(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url, people=("ann", "ben"))
    with office.runtime.session() as session:
        first, second = session.scalars(select(DeletionRequest).order_by(DeletionRequest.id))
        ids = [first.id, second.id]
    for request_id, new, told in (
        (ids[0], RequestStatus.COMPLETED, ["in_progress"]),
        (ids[1], RequestStatus.PROCESSING, ["in_progress"]),
        (ids[1], RequestStatus.COMPLETED, ["in_progress", "completed"]),
    ):
        with office.runtime.session() as session:
            machine.move(session.get_one(DeletionRequest, request_id), new)
            chain.append(
                session,
                actor="worker:w",
                action=chain.Action.DELETION_REQUEST_COMPLETED,
                subject=f"deletion_request:{request_id}",
                data={},
            )
        office.send()
        assert states(to) == told


def test_what_failed_is_told_again_with_growing_pauses(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    to.answers(503, 500)
    assert office.send()
    assert not office.send()
    assert office.send(later=11)
    assert not office.send(later=11)
    assert office.send(later=20)
    assert states(to) == ["in_progress"] * 3
    [row] = office.rows()
    assert (row.failures, row.error, row.told) == (0, None, "in_progress")


def test_after_a_failure_the_present_state_is_told(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    to.answers(503)
    office.send()
    office.move(RequestStatus.COMPLETED)
    office.send(later=11)
    assert states(to) == ["in_progress", "completed"]


def test_a_receiver_that_is_gone_is_given_up(office: Office) -> None:
    gone, dead = office.receiver(), office.receiver()
    office.ask(gone.url)
    office.ask(dead.url)
    office.move(RequestStatus.PROCESSING)
    gone.answers(410)
    dead.answer = lambda _: (500, {})
    office.send()
    for _ in range(30):
        office.send(later=6 * 3600)
    assert len(gone.received) == 1
    before = len(dead.received)
    assert office.send(later=12 * 3600) is False
    assert len(dead.received) == before > 5
    assert all(row.ended_at is not None and row.error for row in office.rows())


def test_a_redirect_is_not_followed(office: Office) -> None:
    to, other = office.receiver(), office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    to.answers(302, location=other.url)
    office.send()
    assert (len(to.received), len(other.received)) == (1, 0)
    assert "redirects are not followed" in (office.rows()[0].error or "")


def test_nothing_is_sent_into_a_network_that_the_settings_do_not_allow(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    closed = office.runtime.settings.model_copy(update={"webhook_networks": ""})
    office.runtime.settings = closed
    office.send()
    assert to.received == []
    assert "UNLEARN_WEBHOOK_NETWORKS" in (office.rows()[0].error or "")


def test_a_slow_receiver_does_not_hold_up_the_others(office: Office) -> None:
    slow, quick = office.receiver(), office.receiver()
    told = threading.Event()

    def patient(_: Received) -> tuple[int, Mapping[str, str]]:
        assert told.wait(60)
        return 204, {}

    def at_once(_: Received) -> tuple[int, Mapping[str, str]]:
        told.set()
        return 204, {}

    slow.answer, quick.answer = patient, at_once
    office.ask(slow.url)
    office.ask(quick.url)
    office.move(RequestStatus.PROCESSING)
    assert office.send()
    assert states(slow) == states(quick) == ["in_progress"]


def test_a_host_that_is_gone_does_not_fill_every_round(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "MOST_AT_ONCE", 3)
    gone, there = office.receiver(), office.receiver()
    gone.answer = lambda _: (503, {})
    for _ in range(3):
        office.ask(gone.url)
    office.ask(there.url)
    office.move(RequestStatus.PROCESSING)
    assert office.send()
    assert (len(gone.received), states(there)) == (1, [])
    assert office.send()
    assert (len(gone.received), states(there)) == (1, ["in_progress"])
    # Each of them is told once the host is there again.
    gone.answers()
    while office.send(later=11):
        pass
    assert len({one.event["subject_request_id"] for one in gone.received}) == 3
    assert [row.told for row in office.rows()] == ["in_progress"] * 4


def test_two_workers_do_not_tell_the_same_twice(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    with office.runtime.session() as session:
        other = leases.acquire(session, callbacks.LEASE, owner="w2", seconds=600, now=office.now())
    assert other is not None
    assert not office.send()
    assert to.received == []
    with office.runtime.session() as session:
        leases.release(session, other, now=office.now())
    assert office.send()
    assert states(to) == ["in_progress"]


def test_callbacks_wait_for_a_certificate_that_can_sign(office: Office, tmp_path: Path) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    certificates.pair(days=(-9, -1)).settings(office.runtime.settings, tmp_path)
    assert not office.send()
    assert to.received == []
    certificates.pair().settings(office.runtime.settings, tmp_path)
    fresh = Sender(Runtime.make(office.runtime.settings, engine=office.runtime.engine))
    assert fresh.run()
    assert states(to) == ["in_progress"]


def test_a_request_that_was_opened_again_is_told_again(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    office.move(RequestStatus.COMPLETED)
    office.send()
    office.move(RequestStatus.PROCESSING, by=reopened_requests)
    with office.runtime.session() as session:
        callbacks.reopen(session)
    assert office.send()
    assert states(to) == ["completed", "in_progress"]


def test_the_state_in_the_query_is_that_of_the_definition(office: Office) -> None:
    """Every set of up to two states, told to a callback that was told something else."""
    to = office.receiver()
    office.ask(to.url, people=("ann", "ben"))
    for first in RequestStatus:
        for second in RequestStatus:
            with office.runtime.session() as session:
                found = session.scalars(select(DeletionRequest).order_by(DeletionRequest.id)).all()
                for row, new in zip(found, (first, second), strict=True):
                    row.status = new  # whether a move is allowed is another question
                [callback] = session.scalars(select(OpenDsrCallback))
                callback.told = "nothing yet"
            with office.runtime.session() as session:
                [due] = callbacks.due(session, now=office.now())
                [callback] = session.scalars(select(OpenDsrCallback))
                callback.told = due.status.value
            assert due.status == requests.status_of([first, second])
            with office.runtime.session() as session:
                assert callbacks.due(session, now=office.now()) == []


def test_without_a_domain_the_database_is_not_asked(office: Office) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    unset = office.runtime.settings.model_copy(update={"opendsr_domain": ""})
    assert not opendsr.run_due(Runtime.make(unset, engine=office.runtime.engine))
    assert to.received == []
    assert opendsr.run_due(office.runtime)
    assert states(to) == ["in_progress"]


def test_a_sender_killed_before_it_records_repeats_and_loses_nothing(
    office: Office, tmp_path: Path
) -> None:
    to = office.receiver()
    office.ask(to.url)
    office.move(RequestStatus.PROCESSING)
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "opendsr.sent").write_text("kill")
    left = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    settings = office.runtime.settings
    given = {
        f"UNLEARN_{name.upper()}": str(getattr(settings, name))
        for name in (
            *ALLOWED,
            "webhook_timeout_seconds",
            "database_url",
            "state_dir",
            "opendsr_domain",
            "opendsr_key_file",
            "opendsr_certificate_file",
        )
    }
    faults = {"UNLEARN_FAULTS": str(tmp_path / "faults")}
    killed = subprocess.Popen([sys.executable, "-c", PROGRAM], env={**left, **given, **faults})
    assert killed.wait() == -signal.SIGKILL
    assert states(to) == ["in_progress"]
    assert office.rows()[0].told == "pending"
    # The dead one's lease still stands.
    assert not office.send()
    assert office.send(later=3600)
    assert states(to) == ["in_progress"] * 2
    assert to.received[0].event["subject_request_id"] == to.received[1].event["subject_request_id"]
    assert office.rows()[0].told == "in_progress"
