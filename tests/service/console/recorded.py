"""Requests in the ledger of a running application, for tests of its pages."""

from __future__ import annotations

import re

from fastapi import FastAPI

from service.ledger.database.tables import DeletionRequest
from tests import factories

MARKUP = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def recorded_request(app: FastAPI, **columns: object) -> str:
    """Record a request in the ledger and return its id."""
    with app.state.sessions.begin() as session:
        data = session.query(factories.Dataset).first() or factories.dataset(session, name="faces")
        return factories.request(session, data, **columns).id


def status_of(app: FastAPI, request_id: str) -> str:
    with app.state.sessions() as session:
        return str(session.get_one(DeletionRequest, request_id).status)


def listed_in(page: str) -> list[str]:
    return re.findall(r'href="/requests/(dr_[0-9a-z]+)"', page)
