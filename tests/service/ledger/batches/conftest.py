"""A dataset and a model with a version, for the tests of batches."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.batches import holds
from service.ledger.database.tables import Dataset, Model
from tests import factories
from tests.service.ledger.batches.held import Case, hold


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, rows=20)


@pytest.fixture
def model(session: Session, data: Dataset) -> Model:
    made = factories.model(session, data, policy={"max_records": 10, "max_wait_seconds": 10})
    factories.version(session, made)
    return made


@pytest.fixture
def case(session: Session) -> Case:
    """An exact version that lost accuracy."""
    return hold(session, mark=holds.ACCURACY)


@pytest.fixture
def memorised(session: Session) -> Case:
    """A step whose few rows the base version has memorised; the policy has no other method."""
    return hold(session, mark=holds.MEMORISED)
