"""A running application with a console."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from service.settings import Settings
from tests.service.api import callers


@pytest.fixture
def database(sqlite_database: Engine) -> Engine:
    """SQLite, unless a test asks for both databases."""
    return sqlite_database


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    with callers.application(settings) as running:
        yield running
