"""Twelve faces in a running application, to be asked to forget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr

from service.settings import Settings
from tests import factories
from tests.service.api import callers

URL = "/v1/deletion-requests"


@contextmanager
def application(settings: Settings) -> Iterator[FastAPI]:
    """An application with a model of twelve faces, of ann, of ben and of a planted person."""
    subject_key = SecretStr(factories.DIGESTER.keys[0].decode())
    limits = {
        "max_records_per_request": 5,
        "max_queue": 40,
        "previews_per_minute": 3,
        "subject_key": subject_key,
    }
    with callers.application(settings.model_copy(update=limits)) as running:
        with running.state.sessions() as session:
            subjects = ["ann", "ben", *["planted-person"] * 10]
            data = factories.dataset(session, name="faces", subjects=subjects)
            model = factories.model(session, data, name="who")
            factories.version(session, model)
            session.commit()
        yield running


def ask_for(*names: str, **more: Any) -> dict[str, Any]:
    return {"dataset": "faces", "record_ids": list(names), **more}
