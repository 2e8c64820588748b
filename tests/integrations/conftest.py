"""A real browser for every test here."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine

from service.main import create_app
from tests.conftest import leave_out
from tests.service.api import callers
from tests.service.console import place

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a screen."""
    for needed in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(needed) is None:
            leave_out(f"{needed} is not installed (pip install --editable '.[dev]')")
    if CHROMIUM is None:
        leave_out("Chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> FastAPI:
    """An application whose ledger has something for every page; one heartbeat lasts for all."""
    settings = callers.settings_on(sqlite_database, tmp_path)
    key = SecretStr(place.factories.DIGESTER.keys[0].decode())
    made = create_app(settings.model_copy(update={"subject_key": key, "heartbeat_seconds": 3600}))
    place.fill(made)
    return made
