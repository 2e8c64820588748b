"""The application of a test module, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.settings import Settings
from tests.service.api import callers


@pytest.fixture
def app(request: pytest.FixtureRequest, settings: Settings) -> Iterator[FastAPI]:
    """The application that the module names as ``APPLICATION``; else one with an empty ledger."""
    application = getattr(request.module, "APPLICATION", callers.application)
    with application(settings) as running:
        yield running


@pytest.fixture
def client(request: pytest.FixtureRequest, app: FastAPI) -> TestClient:
    """A client with the ``SCOPES`` that the module names; else with every one."""
    return callers.client(app, *getattr(request.module, "SCOPES", ()))
