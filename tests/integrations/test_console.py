"""The console in a real browser: every screen and action, two keys, and what axe says of it.

It starts the API on a free port and Debian's Chromium without a screen; it takes the pictures that
``docs/console.md`` shows if ``UNLEARN_TEST_SCREENSHOTS`` names a folder for them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.console.views.bulk import MOST_AT_ONCE
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    Model,
    TrainingRun,
    Webhook,
)
from service.ledger.requests import lifecycle
from tests import factories
from tests.service.console import place

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
    page.clock.run_for(60_000)
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
