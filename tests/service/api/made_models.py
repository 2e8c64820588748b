"""Models as a client asks for them, and one with a live version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI

from service.settings import Settings
from tests import factories
from tests.service import announcements
from tests.service.api import callers


@contextmanager
def application(settings: Settings) -> Iterator[FastAPI]:
    """An application with a dataset of images and one of a table, and what workers announce."""
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            announcements.announce(session)
            factories.dataset(session, name="digits", shape=[1, 8, 8], classes=10)
            factories.dataset(session, name="table", shape=[30], dtype="float32", classes=2)
            session.commit()
        yield running


def asked_model(**changes: Any) -> dict[str, Any]:
    return {
        "name": "reader",
        "dataset": "digits",
        "architecture": {"name": "lenet5"},
        **changes,
    }


def published_model(app: FastAPI, **columns: Any) -> str:
    """A model with a production version and twelve training rows; its name."""
    with app.state.sessions() as session:
        data = factories.dataset(session, name="live-data")
        policy = {"method": "iau", "options": {}, "drift": {"max_share": 0.1}}
        made = factories.model(session, data, name="live", policy=policy, **columns)
        factories.version(session, made)
        session.commit()
    return "live"
