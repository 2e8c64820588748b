"""A real browser for every test here, and the console to look at."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine, select

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.tables import Lease, Model
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.sealing import Sealer
from service.main import create_app
from tests.conftest import leave_out
from tests.service.api import callers, serving
from tests.service.console import browsers, place

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
    key = place.factories.DIGESTER.keys[0].decode()
    made = create_app(
        settings.model_copy(update={"subject_key": SecretStr(key), "heartbeat_seconds": 3600})
    )
    place.fill(made)
    with made.state.sessions.begin() as session:
        rules = Rules(networks=(), http=False)
        new = endpoints.New("https://93.184.215.14/hook", "CRM")
        sealer = Sealer.from_settings(made.state.settings)
        endpoints.create(session, new, rules=rules, sealer=sealer, actor="cli", now=db.now())
        who = session.scalars(select(Model).where(Model.name == "who")).one()
        held = session.get_one(Lease, leases.of_model(who.id))
        held.doing, held.progress = "unlearn", 0.6
    return made


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """The address at which the application answers."""
    with serving.served(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def open_page(chromium: Any, url: str) -> Iterator[Any]:
    """A function that signs in with a key of these scopes and returns its page."""
    contexts: list[Any] = []

    def opened(app: FastAPI, *scopes: str, name: str = "privacy office", **options: Any) -> Any:
        context = chromium.new_context(
            base_url=url, viewport={"width": 1280, "height": 860}, **options
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.problems = []
        page.on("console", lambda said: said.type == "error" and page.problems.append(said.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto("/")
        page.get_by_label("API key").fill(browsers.key(app, *scopes, name=name))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda address: "/sign-in" not in address)
        return page

    yield opened
    for context in contexts:
        context.close()
