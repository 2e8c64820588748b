"""Deliveries to a real receiver over real sockets; the clock and the pauses are the test's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select
from standardwebhooks.webhooks import Webhook as Verifier

from service.ledger.audit.chain import Action
from service.ledger.batches import leases
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables import WebhookDelivery
from service.ledger.webhooks import endpoints, outbox
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.events import EventType
from service.ledger.webhooks.outbox import Backoff
from tests.factories import NOW
from tests.workers.receiver import Received
from tests.workers.webhook_office import Office
from workers.jobs.webhooks import Sender
from workers.runtime import Runtime


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
