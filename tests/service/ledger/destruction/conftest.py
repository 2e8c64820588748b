"""A dataset, a model of it and a live version."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.tables import Dataset, Model, Version
from tests import factories
from tests.service.ledger.destruction.withdrawing import POLICY


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, name="faces")


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    return factories.model(session, data, name="reader", policy=POLICY)


@pytest.fixture
def live(session: Session, model: Model) -> Version:
    return factories.version(session, model)
