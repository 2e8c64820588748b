"""Deliveries to a real receiver over real sockets; the clock and the pauses are the test's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select
from standardwebhooks.webhooks import Webhook as Verifier

from service.ledger.audit import chain
from service.ledger.audit.chain import Action
from service.ledger.batches import leases
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables import AuditEvent, Webhook, WebhookDelivery
from service.ledger.webhooks import endpoints, outbox
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.events import EventType
from service.ledger.webhooks.outbox import Backoff
from service.ledger.webhooks.sealing import Sealer
from service.ledger.webhooks.signatures import Scheme
from service.settings import Settings
from tests.factories import NOW
from tests.workers import receiver
from tests.workers.receiver import Received, Receiver
from workers.jobs.webhooks import Sender
from workers.runtime import Runtime


@dataclass
class Office:
    """A worker that delivers to receivers on this machine, and a clock to set."""

    runtime: Runtime
    receivers: ExitStack
    now: datetime = NOW
    sender: Sender = field(init=False)
    secrets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sender = Sender(
            self.runtime,
            Backoff(first_seconds=10, factor=3),
            jitter=lambda: 0.5,
            clock=lambda: self.now,
            round_seconds=600,
            turn_seconds=600,
        )

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    def receiver(self) -> Receiver:
        return self.receivers.enter_context(receiver.running())

    def add(self, to: Receiver | str, **new: Any) -> str:
        url = to if isinstance(to, str) else to.url
        with self.runtime.session() as session:
            row, secret = endpoints.create(
                session,
                endpoints.New(url, **new),
                rules=Rules.from_settings(self.settings),
                sealer=Sealer.from_settings(self.settings),
                actor="key:k",
                now=self.now,
            )
        self.secrets[row.id] = secret or ""
        return row.id

    def happen(self, *requests: str, action: Action = Action.DELETION_REQUEST_COMPLETED) -> None:
        with self.runtime.session() as session:
            for one in requests:
                subject = f"deletion_request:{one}"
                chain.append(session, actor="worker:w", action=action, subject=subject, data={})

    def do(self, change: Callable[..., Any], webhook_id: str, **given: Any) -> Any:
        with self.runtime.session() as session:
            return change(session, webhook_id, actor="key:k", **given)

    def send(self) -> bool:
        return self.sender.run()

    def later(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        return self.send()

    def row(self, webhook_id: str) -> Webhook:
        with self.runtime.session() as session:
            return endpoints.get(session, webhook_id)

    def attempts(self, webhook_id: str) -> list[WebhookDelivery]:
        with self.runtime.session() as session:
            found = endpoints.deliveries(session, webhook_id, before=None, limit=200, failed=None)
        return list(reversed(found))

    def lines(self) -> Sequence[AuditEvent]:
        with self.runtime.session() as session:
            return session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()


@pytest.fixture
def office(settings: Settings, database: Engine) -> Iterator[Office]:
    allowed = {"webhook_http": True, "webhook_networks": "127.0.0.1/32"}
    patient = {"webhook_timeout_seconds": 60.0, "lease_seconds": 600.0, "poll_seconds": 0.05}
    mine = settings.model_copy(update=allowed | patient)
    with ExitStack() as receivers:
        yield Office(Runtime.make(mine, engine=database), receivers)


def with_timeout(office: Office, seconds: float) -> None:
    office.runtime.settings = office.settings.model_copy(
        update={"webhook_timeout_seconds": seconds}
    )


def test_events_arrive_in_order_and_a_foreign_library_accepts_their_signatures(
    office: Office,
) -> None:
    office.now = datetime.now(UTC)  # the library compares with its own clock
    to = office.receiver()
    webhook = office.add(to)
    office.happen("dr_1", "dr_2")
    office.happen("dr_3")
    assert office.send()
    assert to.requests == ["dr_1", "dr_2", "dr_3"]
    for got in to.received:
        event = Verifier(office.secrets[webhook]).verify(got.body, dict(got.headers))
        assert event["type"] == EventType.REQUEST_COMPLETED
        assert event["id"] == got.id
        assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
        assert got.headers["host"] == f"127.0.0.1:{to.port}"
        assert got.path == "/hooks?of=test"
    assert not office.send()
    assert len(to.received) == 3
    assert [(one.error, one.answered) for one in office.attempts(webhook)] == [(None, 204)] * 3


def test_only_the_types_that_were_asked_for_are_told(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to, types=[EventType.REQUEST_NEEDS_REVIEW])
    office.happen("dr_1")
    office.happen("dr_2", action=Action.DELETION_REQUEST_NEEDS_REVIEW)
    office.happen("dr_3")
    office.send()
    assert to.requests == ["dr_2"]
    assert office.row(webhook).seq == office.lines()[-1].seq


def test_what_fails_is_tried_again_and_the_later_ones_wait(office: Office) -> None:
    to = office.receiver()
    to.answers(500, 503, 404)
    webhook = office.add(to)
    office.happen("dr_1", "dr_2")
    office.send()
    assert not office.later(9.9)
    for pause in (0.2, 30, 90):
        assert office.later(pause)
    assert to.requests == ["dr_1"] * 4 + ["dr_2"]
    assert len(set(to.ids[:4])) == 1
    attempts = office.attempts(webhook)
    assert [one.answered for one in attempts] == [500, 503, 404, 204, 204]
    assert [one.error for one in attempts[:3]] == [
        "it answered 500",
        "it answered 503",
        "it answered 404",
    ]
    kept = office.row(webhook)
    assert (kept.failures, kept.failing_since, kept.not_before) == (0, None, None)


@pytest.mark.parametrize(("asked", "pause"), [("3600", 3600), ("1", 10), ("soon", 10)])
def test_a_receiver_may_ask_for_a_longer_pause(office: Office, asked: str, pause: float) -> None:
    to = office.receiver()
    to.answers(429, Retry_After=asked)
    webhook = office.add(to)
    office.happen("dr_1")
    office.send()
    assert office.row(webhook).not_before == office.now + timedelta(seconds=pause)


def test_pauses_grow_to_half_a_day_spread_by_a_fifth() -> None:
    backoff = Backoff()
    planned = [backoff.pause(n, jitter=0.5).total_seconds() for n in range(1, 12)]
    assert planned[:4] == [5, 20, 80, 320]
    assert planned[-1] == planned[-2] == 12 * 3600
    for failures in (1, 5, 100):
        shortest, longest = (backoff.pause(failures, jitter=j) for j in (0.0, 0.999999))
        assert longest / shortest == pytest.approx(1.5, abs=0.01)


def test_a_webhook_that_fails_for_days_is_disabled_and_goes_on_when_enabled(
    office: Office,
) -> None:
    to = office.receiver()
    to.answer = lambda _: (500, {})
    webhook = office.add(to)
    office.happen("dr_1", "dr_2")
    begun = office.now
    while office.row(webhook).status == WebhookStatus.ACTIVE:
        office.send()
        office.now = office.row(webhook).not_before or office.now
    assert timedelta(days=4) <= office.attempts(webhook)[-1].at - begun <= timedelta(days=4.5)
    tried = len(to.received)
    assert 10 <= tried <= 30
    line = office.lines()[-1]
    assert (line.action, line.subject) == ("webhook:disabled", f"webhook:{webhook}")
    assert "failed for 4 days" in line.data["because"]
    office.later(86_400)
    assert len(to.received) == tried
    to.answers()
    office.do(endpoints.enable, webhook)
    office.send()
    assert to.requests[tried:] == ["dr_1", "dr_2"]


def test_gone_disables_at_once(office: Office) -> None:
    to = office.receiver()
    to.answers(410)
    webhook = office.add(to)
    office.happen("dr_1", "dr_2")
    office.send()
    assert (office.row(webhook).status, len(to.received)) == (WebhookStatus.DISABLED, 1)
    assert "410" in str(office.row(webhook).status_reason)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(office: Office, status: int) -> None:
    to, inner = office.receiver(), office.receiver()
    to.answers(status, Location=inner.url)
    webhook = office.add(to)
    office.happen("dr_1")
    office.send()
    assert inner.received == []
    [attempt] = office.attempts(webhook)
    assert attempt.answered == status
    assert "redirects are not followed" in str(attempt.error)


def test_a_slow_receiver_does_not_hold_up_the_others(office: Office) -> None:
    """The slow one answers only when the other has everything: then neither may fail."""
    slow, quick = office.receiver(), office.receiver()
    all_there = threading.Event()

    def wait(_: Received) -> tuple[int, dict[str, str]]:
        return (204 if all_there.wait(60) else 500), {}

    def take(_: Received) -> tuple[int, dict[str, str]]:
        if len(quick.received) == 1:
            office.happen("dr_2")  # while the slow one is being waited for
        if len(quick.received) == 2:
            all_there.set()
        return 204, {}

    slow.answer, quick.answer = wait, take
    first, second = office.add(slow), office.add(quick)
    office.happen("dr_1")
    office.send()
    assert quick.requests == slow.requests == ["dr_1", "dr_2"]
    assert {one.error for hook in (first, second) for one in office.attempts(hook)} == {None}


def test_a_receiver_with_much_to_be_told_does_not_come_first_each_time(office: Office) -> None:
    office.runtime.settings = office.settings.model_copy(update={"webhook_connections": 1})
    behind, upright = office.receiver(), office.receiver()
    order: list[str] = []

    def noted(name: str) -> Callable[[Received], tuple[int, dict[str, str]]]:
        def answer(_: Received) -> tuple[int, dict[str, str]]:
            order.append(name)
            return 204, {}

        return answer

    behind.answer, upright.answer = noted("behind"), noted("upright")
    late = office.add(behind)
    office.add(upright)
    office.happen("dr_1")
    office.send()
    office.do(endpoints.replay, late, after=0, now=office.now)
    office.later(60)  # it was told just now, and the other one a minute ago
    office.do(endpoints.replay, late, after=0, now=office.now)
    office.happen("dr_2")
    order.clear()
    office.send()
    assert order == ["upright", "behind", "behind"]


def test_no_more_deliveries_at_once_than_the_settings_allow(office: Office) -> None:
    office.runtime.settings = office.settings.model_copy(update={"webhook_connections": 2})
    open_now, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(2)

    def answer(_: Received) -> tuple[int, dict[str, str]]:
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        together.wait(60)  # two are let in at once
        with lock:
            open_now[0] -= 1
        return 204, {}

    many = [office.receiver() for _ in range(4)]
    for one in many:
        one.answer = answer
        office.add(one)
    office.happen("dr_1")
    office.send()
    assert [one.requests for one in many] == [["dr_1"]] * 4
    assert most == [2]


def test_a_receiver_that_never_answers_is_given_up_in_time(office: Office) -> None:
    with_timeout(office, 0.3)
    to, over = office.receiver(), threading.Event()
    to.answer = lambda _: (204 if over.wait(60) else 500, {})
    webhook = office.add(to)
    office.happen("dr_1")
    office.send()
    [attempt] = office.attempts(webhook)
    over.set()
    assert (attempt.answered, attempt.error) == (None, "no answer within 0.3 s")
    assert 0.3 <= attempt.seconds < 60


def test_a_receiver_that_answers_byte_by_byte_is_given_up_in_time(office: Office) -> None:
    with_timeout(office, 0.5)
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            nonlocal sent
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                try:
                    for letter in b"HTTP/1.1 204 No Content\r\nx: " + b"x" * 10_000:
                        connection.sendall(bytes([letter]))
                        sent += 1
                        threading.Event().wait(0.02)
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        webhook = office.add(f"http://127.0.0.1:{server.getsockname()[1]}/")
        office.happen("dr_1")
        office.send()
        dripping.join()
    [attempt] = office.attempts(webhook)
    assert attempt.error == "no answer within 0.5 s"
    assert sent < 10_000


def test_nobody_there_is_a_failure_like_any_other(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    office.receivers.close()
    office.happen("dr_1")
    office.send()
    [attempt] = office.attempts(webhook)
    assert attempt.error == "it accepts no connection"


def test_a_name_is_looked_up_once_per_delivery_and_the_checked_address_is_called(
    office: Office,
) -> None:
    to, asked = office.receiver(), []

    def lookup(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    office.sender.lookup = lookup
    office.add(f"http://hooks.invalid:{to.port}/")
    office.happen("dr_1", "dr_2")
    office.send()
    assert to.requests == ["dr_1", "dr_2"]
    assert asked == [("hooks.invalid", to.port)] * 2
    assert to.received[0].headers["host"] == f"hooks.invalid:{to.port}"


@pytest.mark.parametrize("turned", [["127.0.0.2"], ["127.0.0.1", "10.0.0.1"], []])
def test_a_name_that_turns_inwards_is_not_called(office: Office, turned: list[str]) -> None:
    to = office.receiver()
    found = [["127.0.0.1"], turned]
    office.sender.lookup = lambda _host, _port: found.pop(0)
    webhook = office.add(f"http://hooks.invalid:{to.port}/")
    office.happen("dr_1", "dr_2")
    office.send()
    assert to.requests == ["dr_1"]
    failed = office.attempts(webhook)[-1]
    assert failed.answered is None
    wanted = "inside a network" if turned else "has no address"
    assert wanted in str(failed.error)


def test_a_network_that_is_no_longer_allowed_is_not_called(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    office.runtime.settings = office.settings.model_copy(update={"webhook_networks": ""})
    office.happen("dr_1")
    office.send()
    assert to.received == []
    assert "UNLEARN_WEBHOOK_NETWORKS" in str(office.attempts(webhook)[-1].error)


def test_both_secrets_sign_for_the_overlap_and_then_the_new_one_alone(office: Office) -> None:
    office.now = datetime.now(UTC)
    to = office.receiver()
    webhook = office.add(to)
    old = office.secrets[webhook]
    _, new = office.do(
        endpoints.rotate,
        webhook,
        overlap=timedelta(seconds=100),
        sealer=Sealer.from_settings(office.settings),
        now=office.now,
    )
    office.happen("dr_1")
    office.send()
    both = to.received[0]
    assert len(both.headers["webhook-signature"].split()) == 2
    for secret in (old, new):
        Verifier(secret).verify(both.body, dict(both.headers))
    office.happen("dr_2")
    office.later(101)
    one = to.received[1]
    assert len(one.headers["webhook-signature"].split()) == 1
    Verifier(new).verify(one.body, dict(one.headers))
    assert office.row(webhook).previous_secret is None


def test_secrets_are_encrypted_anew_after_a_change_of_the_subject_key(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    before = office.settings.subject_key
    changed = {"subject_key": type(before)("0123456789abcdef" * 2), "subject_key_previous": before}
    office.runtime.settings = office.settings.model_copy(update=changed)
    sealer = Sealer.from_settings(office.settings)
    assert not sealer.is_current(office.row(webhook).secret, owner=webhook)
    office.happen("dr_1")
    office.send()
    assert sealer.is_current(office.row(webhook).secret, owner=webhook)
    assert sealer.open(office.row(webhook).secret, owner=webhook) == office.secrets[webhook]


def test_a_secret_whose_key_is_gone_stops_its_webhook_and_no_other(office: Office) -> None:
    lost, to = office.receiver(), office.receiver()
    office.add(lost)
    before = office.settings.subject_key
    changed = {"subject_key": type(before)("0123456789abcdef" * 2)}
    office.runtime.settings = office.settings.model_copy(update=changed)
    office.add(to)
    office.happen("dr_1")
    assert office.send()
    assert (lost.received, to.requests) == ([], ["dr_1"])


def test_one_sender_at_a_time_works_for_a_webhook(office: Office, database: Engine) -> None:
    to = office.receiver()
    other = Sender(Runtime.make(office.settings, engine=database), clock=lambda: office.now)
    seen: list[bool] = []

    def answer(_: Received) -> tuple[int, dict[str, str]]:
        if not seen:
            seen.append(other.run())
        return 204, {}

    to.answer = answer
    office.add(to)
    office.happen("dr_1", "dr_2")
    office.send()
    assert seen == [False]
    assert to.requests == ["dr_1", "dr_2"]


def test_a_sender_that_lost_its_lease_records_nothing(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)

    def answer(_: Received) -> tuple[int, dict[str, str]]:
        with office.runtime.session() as session:
            leases.revoke(session, endpoints.lease_of(webhook), now=office.now)
        return 204, {}

    to.answer = answer
    office.happen("dr_1")
    before = office.row(webhook).seq
    office.send()
    assert (office.row(webhook).seq, office.attempts(webhook)) == (before, [])


def test_a_replay_repeats_events_under_their_ids_and_also_while_others_are_sent(
    office: Office,
) -> None:
    to = office.receiver()
    webhook = office.add(to)
    office.happen("dr_1", "dr_2")
    start = office.row(webhook).seq

    def answer(got: Received) -> tuple[int, dict[str, str]]:
        if len(to.received) == 2:
            office.do(endpoints.replay, webhook, after=start, now=office.now)
        return 204, {}

    to.answer = answer
    office.send()
    office.send()
    assert to.requests == ["dr_1", "dr_2"] * 2
    assert to.ids[:2] == to.ids[2:]


def test_a_webhook_that_is_disabled_or_moved_while_others_are_sent_is_told_no_more(
    office: Office,
) -> None:
    to, other = office.receiver(), office.receiver()
    webhook = office.add(to)
    office.happen(*(f"dr_{number}" for number in range(60)))
    to.answer = lambda _: (
        office.do(endpoints.disable, webhook, because="test", now=office.now) and 204,
        {},
    )
    office.send()
    assert len(to.received) <= 20  # those that are recorded together
    told = len(to.received)
    office.do(endpoints.enable, webhook)
    to.answer = lambda _: (
        office.do(
            endpoints.change,
            webhook,
            changes={"url": other.url},
            rules=Rules.from_settings(office.settings),
            now=office.now,
        )
        and 204,
        {},
    )
    office.send()
    office.send()
    assert len(to.received) <= told + 20
    assert other.requests == [f"dr_{number}" for number in range(60)]


def test_a_poisonous_event_can_be_skipped(office: Office) -> None:
    to = office.receiver()
    to.answer = lambda got: (400 if b"dr_1" in got.body else 204, {})
    webhook = office.add(to)
    office.happen("dr_1", "dr_2")
    office.send()
    office.do(endpoints.replay, webhook, after=office.attempts(webhook)[-1].seq, now=office.now)
    office.send()
    assert to.requests == ["dr_1", "dr_2"]


def test_a_test_reaches_its_webhook_alone_and_does_not_wait_for_a_pause(office: Office) -> None:
    to, other = office.receiver(), office.receiver()
    to.answers(500)
    webhook = office.add(to, types=[EventType.VERSION_PROMOTED])
    office.add(other)
    office.do(endpoints.test, webhook)
    office.send()
    office.do(endpoints.test, webhook)
    office.send()
    assert [one.event["type"] for one in to.received] == ["unlearn.webhook.tested"] * 3
    assert to.received[0].event["data"] == {"webhook": webhook}
    assert other.received == []


def test_a_removed_webhook_is_told_nothing_more(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    to.answer = lambda _: (office.do(endpoints.remove, webhook) or 204, {})
    office.happen("dr_1", "dr_2", "dr_3")
    office.send()
    office.happen("dr_4")
    office.send()
    assert "dr_4" not in to.requests
    with office.runtime.session() as session:
        assert session.scalars(select(WebhookDelivery)).all() == []


def test_attempts_are_listed_for_thirty_days(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    for days in (0, 29):
        office.now = NOW + timedelta(days=days)
        office.happen("dr_1")
        office.send()
    with office.runtime.session() as session:
        outbox.forget_old(session, now=NOW + timedelta(days=31))
    assert [one.at for one in office.attempts(webhook)] == [NOW + timedelta(days=29)]


def test_a_public_key_is_enough_to_check_deliveries(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to, scheme=Scheme.ED25519)
    office.happen("dr_1")
    office.send()
    assert to.received[0].headers["webhook-signature"].startswith("v1a,")
    assert str(office.row(webhook).public_key).startswith("whpk_")
