"""Callbacks to a real receiver over real sockets; the clock and the pauses are the test's."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from sqlalchemy import Engine, select

from service.ledger.audit import chain
from service.ledger.audit.machines import reopened_requests
from service.ledger.audit.machines import requests as machine
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest, OpenDsrCallback, OpenDsrPart
from service.ledger.opendsr import callbacks, requests
from service.ledger.opendsr.identities import Identity, IdentityFormat, IdentityType, Ingested
from service.ledger.registry import keys
from service.ledger.selection.regulations import Regulation
from service.ledger.webhooks.outbox import Backoff
from service.settings import Settings
from tests import certificates, factories
from tests.certificates import Pair
from tests.workers import receiver
from tests.workers.receiver import Received, Receiver
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

_ALLOWED = {"webhook_http": True, "webhook_networks": "127.0.0.1/32"}


@dataclass
class Office:
    """A worker that tells controllers on this machine, and a clock to set."""

    runtime: Runtime
    pair: Pair
    receivers: ExitStack
    principal: str
    ahead: timedelta = timedelta()
    sender: Sender = field(init=False)

    def __post_init__(self) -> None:
        self.sender = Sender(
            self.runtime,
            Backoff(first_seconds=10, factor=3),
            jitter=lambda: 0.5,
            clock=self.now,
            round_seconds=600,
        )

    def now(self) -> datetime:
        return db.now() + self.ahead

    def receiver(self) -> Receiver:
        return self.receivers.enter_context(receiver.running())

    def ask(self, *urls: str, people: tuple[str, ...] = ("ann",)) -> str:
        """A request of the controller; its id."""
        new = requests.New(
            subject_request_id=str(uuid.uuid4()),
            regulation=Regulation.GDPR,
            submitted_at=db.now(),
            identities=[
                Identity(IdentityType.CONTROLLER_CUSTOMER_ID, IdentityFormat.RAW, one)
                for one in people
            ],
            callbacks=urls,
        )
        with self.runtime.session() as session:
            requests.create(
                session,
                new,
                principal=self.principal,
                ingested=Ingested.parse("controller_customer_id:raw"),
                digester=factories.DIGESTER,
                max_queue=100,
                now=db.now(),
            )
        return new.subject_request_id

    def cancel(self, subject_request_id: str) -> None:
        with self.runtime.session() as session:
            requests.cancel(session, subject_request_id, principal=self.principal)

    def move(self, new: RequestStatus, *, by: Any = machine) -> None:
        """Move every deletion request that is behind a callback, as a worker does."""
        with self.runtime.session() as session:
            for row in session.scalars(
                select(DeletionRequest).join(
                    OpenDsrPart, OpenDsrPart.request_id == DeletionRequest.id
                )
            ):
                by.move(row, new)
                chain.append(
                    session,
                    actor="worker:w",
                    action=chain.Action.DELETION_REQUEST_COMPLETED,
                    subject=f"deletion_request:{row.id}",
                    data={},
                )

    def send(self, *, later: float = 0.0) -> bool:
        self.ahead += timedelta(seconds=later)
        return self.sender.run()

    def rows(self) -> list[OpenDsrCallback]:
        with self.runtime.session() as session:
            return list(session.scalars(select(OpenDsrCallback).order_by(OpenDsrCallback.id)))


@pytest.fixture
def office(settings: Settings, database: Engine, tmp_path: Path) -> Iterator[Office]:
    pair = certificates.pair()
    patient = {"webhook_timeout_seconds": 60.0, "lease_seconds": 600.0}
    mine = pair.settings(settings, tmp_path, **_ALLOWED, **patient)
    runtime = Runtime.make(mine, engine=database)
    with runtime.session() as session:
        key, _ = keys.create(session, "shop", ["requests:write"], actor="cli")
        data = factories.dataset(session, subjects=[*["ann"] * 6, *["ben"] * 6])
        factories.version(session, factories.model(session, data))
    with ExitStack() as receivers:
        yield Office(runtime, pair, receivers, key.id)


def states(to: Receiver) -> list[str]:
    return [one.event["request_status"] for one in to.received]


def check(one: Received, pair: Pair, url: str) -> None:
    """Check a callback in the order of the specification, section 8.8."""
    assert one.headers["x-opendsr-processor-domain"] == certificates.DOMAIN
    key = x509.load_pem_x509_certificate(pair.certificate).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    value = base64.b64decode(one.headers["x-opendsr-signature"], validate=True)
    key.verify(value, one.body, padding.PKCS1v15(), SHA256())
    assert json.loads(one.body)["status_callback_url"] == url


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
            *_ALLOWED,
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
