"""The console in a real browser: every screen and action, two keys, and what axe says of it.

It starts the API on a free port and Debian's Chromium without a screen; it takes the pictures that
``docs/console.md`` shows if ``UNLEARN_TEST_SCREENSHOTS`` names a folder for them.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import Engine, select

from service.console.views.bulk import MOST_AT_ONCE
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    Lease,
    Model,
    TrainingRun,
    Webhook,
)
from service.ledger.requests import lifecycle
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.sealing import Sealer
from service.main import create_app
from tests import factories
from tests.service.api import callers
from tests.service.console import browsers, place

#: It starts a server and a browser: `make test-integrations`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = (
    "/requests",
    "/requests/new",
    "/models",
    "/models/who",
    "/models/who/versions/1",
    "/models/who/versions/2",
    "/models/who/versions/3",
    "/datasets",
    "/datasets/faces",
    "/operations",
    "/webhooks",
    "/keys",
    "/audit",
    "/docs",
    "/docs/deletion-requests",
)
#: Findings of these impacts fail the test.
SERIOUS = ("serious", "critical", "moderate")
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> FastAPI:
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
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    ready = threading.Event()
    startup = server.startup

    async def announce(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        ready.set()

    server.startup = announce  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(timeout=60)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


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


def _shoot(page: Any, name: str) -> None:
    folder = os.environ.get("UNLEARN_TEST_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"console-{name}.png"))


def _audit(page: Any) -> list[str]:
    """Return what axe finds on a page."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": {"type": "tag", "values": WCAG}, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response
    return [
        f"{page.url}: {one['id']} ({one['impact']}): {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(app: FastAPI, open_page: Any, scheme: str) -> None:
    page = open_page(app, color_scheme=scheme)
    with app.state.sessions() as session:
        asked = session.scalars(
            select(DeletionRequest.id).where(DeletionRequest.status == RequestStatus.NEEDS_REVIEW)
        ).one()
        webhook = session.scalars(select(Webhook.id)).one()
    found = []
    for address in (*PAGES, f"/requests/{asked}", f"/webhooks/{webhook}"):
        assert page.goto(address).status == 200
        found += _audit(page)
        for one in page.locator("details.act > summary").all()[:3]:
            one.click()
        found += _audit(page)
    page.goto("/requests/" + "dr_" + "0" * 26)
    found += _audit(page)
    page.get_by_role("link", name="Go to the start").click()
    page.get_by_role("button", name="Sign out").click()
    found += _audit(page)
    assert found == []
    # The one page that was not found is an error of the browser's console, too.
    assert [one for one in page.problems if "404" not in one] == []


def test_a_privacy_officer_decides_about_requests(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, "requests:read", "requests:write", "requests:approve")
    page.wait_for_url("**/requests")
    assert page.get_by_role("navigation", name="Parts of the console").get_by_role(
        "link"
    ).all_inner_texts() == ["Requests", "New request", "API"]
    _shoot(page, "requests")
    page.get_by_label("Client reference begins with").fill("ticket-10")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("row", name=re.compile("ticket-10")).get_by_role("link").click()
    page.get_by_text("Deny …").click()
    page.get_by_label("Why is it denied?").fill("Not the person's own request.")
    page.get_by_role("button", name="Deny the request").click()
    assert page.get_by_role("status").inner_text().startswith("Denied")
    # Two at once, chosen by the box above all boxes.
    page.goto("/requests?state=awaiting_approval")
    page.get_by_label("Select all on this page").check()
    assert page.locator("[data-count]").inner_text() == "2 selected"
    page.get_by_role("button", name="Approve selected").click()
    assert page.get_by_role("heading", level=1).inner_text() == "2 requests approved"
    page.goto("/requests?state=needs_review")
    page.get_by_role("row", name=re.compile("ticket-13")).get_by_role("link").click()
    page.get_by_role("button", name="Try again").click()
    assert "tried again" in page.get_by_role("status").inner_text()
    _shoot(page, "request")
    page.goto("/requests?reference=ticket-14")
    page.get_by_role("row", name=re.compile("ticket-14")).get_by_role("link").click()
    page.get_by_text("Cancel …").click()
    page.get_by_role("button", name="Cancel the request").click()
    assert page.get_by_role("status").inner_text().startswith("Cancelled")
    assert page.problems == []
    with app.state.sessions() as session:
        rows = session.scalars(
            select(DeletionRequest).where(DeletionRequest.client_reference.is_not(None))
        )
        assert {row.client_reference: row.status.value for row in rows} == {
            "ticket-10": "denied",
            "ticket-11": "accepted",
            "ticket-12": "accepted",
            "ticket-13": "processing",
            "ticket-14": "cancelled",
        }


def test_everything_that_matches_is_decided_about_while_its_page_is_open(
    app: FastAPI, open_page: Any
) -> None:
    with app.state.sessions.begin() as session:
        data = session.scalars(select(Dataset).where(Dataset.name == "plates")).one()
        for _ in range(2 * MOST_AT_ONCE + 1):  # three portions
            factories.request(session, data, rows=(), status=RequestStatus.AWAITING_APPROVAL)
    page = open_page(app, "requests:read", "requests:approve")
    page.goto("/requests?state=awaiting_approval")
    page.get_by_label("Dataset").fill("plates")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="deny all").click()
    number = f"{2 * MOST_AT_ONCE + 1} requests"
    assert page.get_by_role("heading", level=1).inner_text().startswith(number)
    assert _audit(page) == []
    page.get_by_label("Why are they denied?").fill("Sent twice by the same system.")
    page.get_by_label("Reason", exact=True).select_option("duplicate")
    page.get_by_role("button", name=f"Deny {number}").click()
    page.get_by_role("heading", level=1, name=f"{number} denied", exact=True).wait_for()
    assert _audit(page) == []
    assert page.problems == []
    page.get_by_role("link", name="Back to the list").click()
    page.goto("/requests?state=awaiting_approval")
    assert page.get_by_role("link", name="Request dr_").count() == 3  # of the other dataset
    # Paused, it waits for the button.
    page.get_by_role("link", name="approve all").click()
    page.get_by_label("Received").select_option("1")
    page.get_by_role("button", name="Count again").click()
    page.route("**/continue", lambda route: route.fulfill(status=204))  # the page stays
    page.get_by_role("button", name="Approve 3 requests").click()
    page.get_by_role("link", name="Pause").click()
    page.unroute("**/continue")
    assert page.get_by_role("heading", level=1).inner_text() == "0 of 3 requests approved"
    assert _audit(page) == []
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("heading", level=1, name="3 requests approved", exact=True).wait_for()


def test_a_new_request_is_previewed_changed_and_recorded(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, "requests:read", "requests:write", "models:read")
    page.get_by_role("link", name="New request").click()
    assert page.get_by_label("Subject id").is_visible()
    assert not page.get_by_label("Record ids").is_visible()
    page.get_by_label("Single records").check()
    page.get_by_label("Record ids").fill("r21\nr22\nnone")
    page.get_by_role("button", name="Preview").click()
    assert "name the dataset" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Record ids").input_value() == "r21\nr22\nnone"
    page.get_by_label("Dataset").fill("faces")
    page.get_by_role("button", name="Preview").click()
    assert page.get_by_role("heading", level=1).inner_text() == "2 records would be forgotten"
    assert "r21" not in page.content()
    assert _audit(page) == []
    _shoot(page, "preview")
    page.get_by_role("button", name="Change it").click()
    page.get_by_label("Everything about one subject").check()
    page.get_by_label("Subject id").fill(place.SUBJECT)
    page.get_by_label("Dataset").fill("")
    page.get_by_label("Client reference").fill("ticket-99")
    page.get_by_role("button", name="Preview").click()
    assert place.SUBJECT not in page.content()
    page.get_by_role("button", name="Record the request").click()
    assert page.get_by_role("status").inner_text().startswith("Recorded")
    assert page.get_by_role("heading", level=1).inner_text() == "One subject in every dataset"
    with app.state.sessions() as session:
        [row] = session.scalars(
            select(DeletionRequest).where(DeletionRequest.client_reference == "ticket-99")
        )
        assert row.matched == 2


def test_an_administrator_acts_on_every_other_screen(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, name="administrator")
    page.get_by_role("link", name="Models").click()
    page.get_by_role("link", name="who", exact=True).click()
    _shoot(page, "model")
    page.get_by_role("row", name=re.compile("40 %")).get_by_role("button", name="Cancel").click()
    assert "cancelled" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Queue a training").click()
    assert "queued" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Close the next batch now").click()
    assert "closed" in page.get_by_role("status").inner_text()
    page.get_by_role("link", name="Version 2,").click()
    _shoot(page, "version")
    page.get_by_text("Make it live …").click()
    page.get_by_role("button", name="Make version 2 live").click()
    assert "forgotten" in page.get_by_role("main").inner_text()  # it may not come back
    page.goto("/models/who/versions/2")
    page.get_by_text("Withdraw …").click()
    page.get_by_role("button", name="Withdraw version 2").click()
    assert page.get_by_role("status").inner_text().startswith("Withdrawn")
    page.get_by_role("link", name="Operations").click()
    assert page.get_by_text("worker-7").first.is_visible()
    _shoot(page, "operations")
    page.get_by_role("link", name="Audit chain").click()
    page.get_by_role("button", name=re.compile("Check the newest")).click()
    assert page.get_by_role("status").inner_text().startswith("Sound")
    page.get_by_role("link", name="Datasets").click()
    page.get_by_role("link", name="faces").click()
    page.get_by_text("Withdraw the dataset …").click()
    page.get_by_label("to confirm").fill("faces")
    page.get_by_label("Withdraw its models, too").check()
    page.get_by_role("button", name="Withdraw the dataset").click()
    assert page.get_by_role("status").inner_text().startswith("Withdrawn")
    page.get_by_role("link", name="Keys").click()
    page.get_by_role("row", name=re.compile("administrator")).get_by_text("Revoke …").click()
    page.get_by_role("button", name="Revoke administrator").click()
    page.wait_for_url("**/sign-in?*")  # the key was the session's own
    with app.state.sessions() as session:
        assert session.scalars(select(Model.withdrawn_at)).one() is not None
        assert sorted(str(one) for one in session.scalars(select(TrainingRun.status))) == [
            "cancelled",
            "failed",  # its dataset was withdrawn
        ]


def test_requests_are_approved_extended_held_and_released(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, "requests:read", "requests:approve")
    page.goto("/requests?reference=ticket-12")
    page.get_by_role("row", name=re.compile("ticket-12")).get_by_role("link").click()
    page.get_by_role("button", name="Approve").click()
    assert page.get_by_role("status").inner_text().startswith("Approved")
    for summary, said, button, status in (
        ("Extend …", "What is the person told?", "Extend the due date", "Extended"),
        ("Place a legal hold …", "In your own words", "Place the hold", "Under a legal hold"),
        ("Release the legal hold …", "Why is it released?", "Release the hold", "Released"),
    ):
        page.get_by_text(summary).click()
        page.get_by_label(said).fill("Court case 7 is to be decided first.")
        page.get_by_role("button", name=button).click()
        assert page.get_by_role("status").inner_text().startswith(status)
    assert "legal hold placed" in page.get_by_role("main").inner_text().lower()
    page.goto("/requests?state=needs_review")
    assert page.get_by_role("button", name="Retry selected").count() == 0  # not with this key
    assert page.problems == []


def test_webhooks_are_tested_replayed_disabled_and_enabled(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, "webhooks:write")
    page.wait_for_url("**/webhooks")
    page.get_by_role("link", name="Webhook wh_").click()
    page.get_by_role("button", name="Send a test").click()
    assert "test" in page.get_by_role("status").inner_text()
    page.get_by_text("Replay …").click()
    page.get_by_label("Or with the first line since (UTC)").fill("2020-01-01T00:00")
    page.get_by_role("button", name="Replay", exact=True).click()
    assert page.get_by_role("status").inner_text().startswith("It continues there")
    assert "Told up to line\n0 of" in page.get_by_role("main").inner_text()
    page.get_by_role("button", name="Disable").click()
    assert page.get_by_role("status").inner_text().startswith("Disabled")
    page.get_by_role("button", name="Enable").click()
    assert page.get_by_role("status").inner_text().startswith("Enabled")
    assert page.problems == []


def test_a_head_is_compared_and_a_model_withdrawn(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, name="administrator")
    page.goto("/audit")
    page.get_by_text("Compare a head that was kept …").click()
    page.get_by_label("Its seq").fill("1")
    page.get_by_label("Its hash").fill("0" * 64)
    page.get_by_role("button", name="Compare", exact=True).click()
    assert "cut or rewritten" in page.get_by_role("status").inner_text()
    page.goto("/models/who")
    assert "unlearning a batch, 60 %" in page.get_by_role("main").inner_text()
    page.get_by_text("Withdraw the model …").click()
    page.get_by_label("to confirm").fill("who")
    page.get_by_role("button", name="Withdraw the model").click()
    assert page.get_by_role("status").inner_text().startswith("Withdrawn")
    assert page.problems == []


def test_a_page_follows_what_happens_without_being_loaded_again(
    app: FastAPI, open_page: Any
) -> None:
    page = open_page(app, "requests:read")
    page.clock.install()
    page.goto("/requests?reference=ticket-14")
    assert page.get_by_role("row", name=re.compile("accepted")).count() == 1
    page.evaluate("window.stays = 1")
    with app.state.sessions.begin() as session:
        row = session.scalars(
            select(DeletionRequest).where(DeletionRequest.client_reference == "ticket-14")
        ).one()
        lifecycle.cancel(session, row.id, actor="key:other")
    page.clock.run_for(21_000)
    page.get_by_text("No request fits this filter.").wait_for()
    assert page.evaluate("window.stays") == 1
    assert page.problems == []


def test_everything_is_reached_with_the_keyboard_alone(app: FastAPI, open_page: Any) -> None:
    page = open_page(app, "requests:read", "requests:approve")
    page.goto("/requests?state=awaiting_approval")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('name') || ''"))
    assert {"reference", "due", "request", "action", "reason"} <= reached
