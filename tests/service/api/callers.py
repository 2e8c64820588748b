"""Clients of a real application, with real keys."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from service.ledger.database import db
from service.ledger.database.connections import Limits
from service.ledger.registry import heartbeats, keys, models, versions
from service.ledger.reports import measurements
from service.main import create_app
from service.settings import Settings
from tests import factories


def settings_on(database: Engine, directory: Path) -> Settings:
    """Development settings on a database that keep everything else in a directory."""
    url = database.url.render_as_string(hide_password=False)
    return Settings(_env_file=None, mode="development", state_dir=directory, database_url=url)


@cache
def _engine(url: str, limits: Limits) -> Engine:
    """An engine for one application after the other: it keeps what SQL it has written."""
    return db.engine(url, limits=limits)


@contextmanager
def application(settings: Settings) -> Iterator[FastAPI]:
    """A running application on the settings."""
    engine = _engine(settings.database, Limits.of_requests(settings))
    app = create_app(settings, engine=engine.execution_options())
    with TestClient(app):
        yield app


@cache
def document() -> dict[str, Any]:
    """The document of every application; to derive it takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Any] = create_app(
            Settings(_env_file=None, state_dir=Path(folder))
        ).openapi()
    return made


def beat(app: FastAPI, name: str = "w", counted: dict[str, float] | None = None) -> None:
    """Have a worker say that it lives, and what it has counted."""
    with app.state.sessions.begin() as session:
        heartbeats.beat(
            session,
            name,
            started_at=db.now(),
            busy_since={},
            code_version="1",
            counts=counted,
        )


def client(app: FastAPI, *scopes: str) -> TestClient:
    """A client whose key has these scopes; without any, every one."""
    with app.state.sessions() as session:
        _, token = keys.create(session, "test", scopes or ("admin",), actor="cli")
        session.commit()
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


def assert_problem(response: object, status: int, *words: str) -> None:
    """The answer is a problem with this status whose text holds the words."""
    assert response.status_code == status, response.text  # type: ignore[attr-defined]
    assert response.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    for word in words:
        assert word in response.text, response.text  # type: ignore[attr-defined]


def measured(app: FastAPI, number: int, **values: Any) -> None:
    """Do what a worker does once it has measured the imported version ``number`` of ``reader``."""
    found = {"verdict": "imported", "mark": None, "kind": "import", "reasons": [], **values}
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        version = versions.get(session, model, number)
        measurements.decide(
            session,
            model,
            version,
            measured=found,
            data_revision=0,
            actor="worker:w",
            now=factories.NOW,
        )
        session.commit()
