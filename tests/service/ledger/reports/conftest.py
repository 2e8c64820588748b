"""Figures that were shown, for several files of tests."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from tests.service.ledger.reports.shown_sets import Failing, Shown


@pytest.fixture
def shown(session: Session) -> Shown:
    return Shown(session)


@pytest.fixture
def failing(session: Session) -> Failing:
    return Failing(session)
