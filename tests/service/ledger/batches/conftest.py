"""A dataset and a model with a version, for the tests of batches."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.tables import (
    Dataset,
    Model,
)
from tests import factories


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=20)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data, policy={"max_records": 10, "max_wait_seconds": 10})
    factories.version(session, made)
    return made
