"""What the pages about a decision on many requests show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.console.views import requests
from service.console.views.requests import Asked
from service.errors import Unprocessable
from service.ledger.audit import canonical
from service.ledger.database.tables import BulkDecision
from service.ledger.requests import bulk

#: Requests that one form decides about: a page answers within a few seconds.
MOST_AT_ONCE = 50
#: Days of the filter by age.
AGES = ("", "1", "2", "7", "14", "30")


def chosen(asked: Asked, age: str, *, now: datetime) -> bulk.Filter:
    """Return the ledger's filter of what a list shows, and of requests older than ``age`` days."""
    wanted = asked.wanted(now)
    return bulk.Filter(
        dataset=wanted.dataset,
        model=wanted.model,
        due_before=wanted.due_before,
        received_before=now - timedelta(days=int(age)) if age in AGES[1:] else None,
        reference=wanted.reference,
    )


def preview(
    session: Session, action: bulk.Action, asked: Asked, age: str, *, now: datetime
) -> dict[str, Any]:
    """Return how many requests fit, as of the moment that the form hands on."""
    found = bulk.count(session, action, chosen(asked, age, now=now))
    return {
        "action": action.value,
        "asked": replace(asked, state=bulk.STATES[action].value),
        "age": age,
        "ages": AGES,
        "matching": found.number,
        "counted_up_to": found.up_to,
        "counted_at": canonical.moment(now),
        "denial_reasons": requests.DENIAL_REASONS,
    }


def moment(text: str) -> datetime:
    """Return the moment that a form hands on: a filter by days means the same as in its preview."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Unprocessable("this form is of no preview; begin again with the list") from None


def progress(row: BulkDecision, *, goes_on: bool, paused: bool) -> dict[str, Any]:
    """Return a decision and how far it has come."""
    return {
        "decision": row,
        "decided": row.done + row.refused,
        "passed_over": row.matching - row.done - row.refused if row.ended_at else 0,
        "goes_on": goes_on,
        "paused": paused,
    }
