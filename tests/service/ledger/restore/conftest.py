"""A dataset whose requests are lost and come back."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from service.ledger.database.tables import Dataset
from tests import factories


@pytest.fixture
def data(session: Session) -> Dataset:
    return factories.dataset(session, name="letters")
