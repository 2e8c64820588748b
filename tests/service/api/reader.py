"""A service with the model ``reader``, and versions of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.database.tables import Dataset
from service.ledger.registry import models
from service.ledger.requests import lookup
from service.settings import Settings
from tests import factories
from tests.service.api import callers

PATH = "/v1/models/reader/versions"
ALIAS = "/v1/models/reader/aliases/production"
BINARY = {"Content-Type": "application/octet-stream"}


@contextmanager
def application(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits", rows=10, splits=[0] * 8 + [1, 2])
            factories.model(session, data, name="reader")
            session.commit()
        yield running


def weights(seed: int = 0, **changes: np.ndarray) -> bytes:
    generator = np.random.default_rng(seed)
    tensors = {"0.weight": generator.normal(size=(3, 64)).astype(np.float32), **changes}
    return safetensors.numpy.save(tensors)


def post(client: TestClient, content: bytes, **params: Any) -> Any:
    return client.post(PATH, content=content, headers=BINARY, params=params)


def forget(session: Any, *, rows: list[int], revision: int) -> str:
    """A completed deletion of rows that were excluded at a revision; its id."""
    data = session.scalars(select(Dataset).where(Dataset.name == "digits")).one()
    asked = factories.request(session, data, rows=rows, status="completed")
    for row in rows:
        session.get_one(factories.Record, (data.id, row)).excluded_revision = revision
    data.revision = max(data.revision, revision)
    session.flush()
    return asked.id


def chain(app: FastAPI) -> None:
    """Version 1 (anchor), 2 (forgets rows 0 and 1), 3 (forgets row 2, live)."""
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        data = session.get_one(Dataset, model.dataset_id)
        anchor = factories.version(session, model)
        made = anchor
        for revision, rows in ((1, [0, 1]), (2, [2])):
            asked = lookup.get(session, forget(session, rows=rows, revision=revision))
            made = factories.unlearned(session, model, made, [asked])
            measured = {
                "metrics": {"rmia_auc": {"value": 0.5, "worst_records": [{"row": 3}], "k": 1}},
                "pooled": {"batches": 2, "rows": 20, "smallest_batch": 10},
                "of_a_later_release": {"3": 0.9},
            }
            factories.verification(session, made, measured=measured)
        assert data.revision == 2
        session.commit()
