"""Events for webhooks, derived from real lines of the audit chain."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.audit.chain import Action
from service.ledger.database.tables import AuditEvent
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.webhooks import events
from service.ledger.webhooks.events import EventType
from tests import factories

PERSON, REFERENCE = "heloise@example.org", "ticket of heloise"


def lines(session: Session) -> list[AuditEvent]:
    return list(session.scalars(select(AuditEvent).order_by(AuditEvent.seq)))


def said(session: Session, action: Action, subject: str, **data: Any) -> events.Event | None:
    chain.append(session, actor="key:key_1", action=action, subject=subject, data=data)
    session.commit()
    return events.of_line(lines(session)[-1])


def test_an_accepted_request_becomes_a_cloud_event_without_anything_of_its_person(
    session: Session,
) -> None:
    data = factories.dataset(session, subjects=[PERSON] * 12)
    receipt = intake.record(
        session,
        Ask(data.name, "subject", subject_id=PERSON, reason="she left", client_reference=REFERENCE),
        principal="key_crm",
        digester=factories.DIGESTER,
        now=factories.NOW,
    )
    session.commit()
    [line] = lines(session)
    event = events.of_line(line)
    assert event is not None
    document = json.loads(event.body)
    request = receipt.answer["id"]
    assert document == {
        "specversion": "1.0",
        "id": f"{line.seq}-{line.hash[:16]}",
        "source": "/v1/audit/events",
        "type": "unlearn.deletion_request.accepted",
        "time": document["time"],
        "datacontenttype": "application/json",
        "sequence": "00000000000000000001",
        "data": {
            "deletion_request": request,
            "href": f"/v1/deletion-requests/{request}",
            "due_at": receipt.answer["due_at"],
        },
    }
    assert datetime.fromisoformat(document["time"]) == line.at.astimezone(UTC)
    digest = factories.DIGESTER.subject(PERSON)
    for private in (PERSON, REFERENCE, "she left", data.name, digest, "key_crm"):
        assert private.encode() not in event.body


def test_versions_and_trainings_are_named_as_their_urls_name_them(session: Session) -> None:
    promoted = said(session, Action.VERSION_PROMOTED, "version:m.1/3", digest="ab", reason="r")
    assert promoted is not None
    assert promoted.type == EventType.VERSION_PROMOTED
    assert promoted.data == {
        "model": "m.1",
        "version": 3,
        "href": "/v1/models/m.1/versions/3",
        "digest": "ab",
    }
    trained = said(
        session, Action.TRAINING_RUN_COMPLETED, "model:m.1", training_run="run_1", version=4
    )
    assert trained is not None
    assert trained.data == {
        "model": "m.1",
        "training_run": "run_1",
        "href": "/v1/models/m.1/training-runs/run_1",
        "version": 4,
    }


def test_the_bytes_of_an_event_are_the_same_whenever_it_is_made(session: Session) -> None:
    said(session, Action.VERSION_PURGED, "version:m/1")
    bodies = set()
    for _ in range(2):
        session.expire_all()
        event = events.of_line(lines(session)[0])
        assert event is not None
        bodies.add(event.body)
    assert len(bodies) == 1


def test_other_lines_are_no_events(session: Session) -> None:
    assert said(session, Action.KEY_CREATED, "key:key_1", name="me") is None
    assert said(session, Action.BATCH_CLAIMED, "batch:b_1", requests=["dr_1"]) is None


@pytest.mark.parametrize("kind", EventType)
def test_every_type_comes_from_one_action(kind: EventType) -> None:
    noun, verb = kind.value.removeprefix("unlearn.").split(".")
    assert Action(f"{noun}:{verb}")
