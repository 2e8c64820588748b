"""Actions in a real browser that the walk through the console's screens does not take."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI

#: It starts a server and a browser: `make test-integrations`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
