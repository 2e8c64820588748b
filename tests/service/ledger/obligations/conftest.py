"""A dataset and a model of it with a version."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.tables import Dataset, Model
from tests import factories


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=6)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data)
    factories.version(session, made)
    return made
