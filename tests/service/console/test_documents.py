"""Reports and receipts as the console shows them."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.console import charts
from service.console.documents import paper, reports
from service.ledger.database.tables import DeletionRequest
from service.settings import Settings
from tests.service.console import place
from tests.service.console.browsers import Browser, signed_in, tags, text

REPORT = "/models/who/versions/2/report"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """One heartbeat lasts for the whole test."""
    return settings.model_copy(update={"heartbeat_seconds": 3600})


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    place.fill(app)
    return app


@pytest.fixture
def receipts(app: FastAPI) -> list[str]:
    """The address of the receipt of every request."""
    with app.state.sessions() as session:
        found = session.scalars(select(DeletionRequest.id).order_by(DeletionRequest.id))
        return [f"/requests/{one}/receipt" for one in found]


def _links(browser: Browser, page: str) -> list[str | None]:
    return [of.get("href") for tag, of in tags(browser.get(page).text) if tag == "a"]


def test_a_version_links_to_its_report_for_keys_that_may_read_it(app: FastAPI) -> None:
    reader, auditor = signed_in(app, "models:read"), signed_in(app, "models:read", "audit:read")
    assert REPORT not in _links(reader, "/models/who/versions/2")
    assert REPORT in _links(auditor, "/models/who/versions/2")
    refused = reader.get(REPORT)
    assert refused.status_code == 403
    assert "audit:read" in text(refused.text)
    assert "digest" not in refused.text
    answer = auditor.get(REPORT)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == paper.POLICY
    assert "Version 2 of who" in text(answer.text)
    assert str(place.SECRET) not in answer.text


def test_a_request_links_to_its_receipt(app: FastAPI, receipts: list[str]) -> None:
    reader, other = signed_in(app, "requests:read"), signed_in(app, "models:read")
    for address in receipts:
        request = address.removesuffix("/receipt")
        assert address in _links(reader, request)
        assert other.get(address).status_code == 403
        page = reader.get(address)
        assert page.status_code == 200
        assert "Receipt of a deletion request" in text(page.text)
        assert place.SUBJECT not in page.text
        assert [one for one in receipts if one.split("/")[2] in page.text] == [address]


def test_without_a_session_documents_lead_to_the_sign_in(app: FastAPI, receipts: list[str]) -> None:
    stranger = Browser(app)
    for address in (REPORT, receipts[0]):
        answer = stranger.get(address)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in")


def test_figures_lie_on_a_common_scale_in_their_order() -> None:
    marks = [
        charts.Mark("one", 0.55, (0.5, 0.6), 0.8, 0.52),
        charts.Mark("two", 0.45, None, 0.9),
    ]
    drawn = charts.scale(marks, chance=0.5, title="Attacks")
    circles = [of for tag, of in tags(str(drawn)) if tag == "circle"]
    places = [(of["class"], float(of["cx"] or 0)) for of in circles]
    by_value = dict(zip([0.8, 0.55, 0.9, 0.45], [x for _, x in places], strict=True))
    assert [by_value[value] for value in sorted(by_value)] == sorted(by_value.values())
    [chance] = [of for tag, of in tags(str(drawn)) if of.get("class") == "chance"]
    assert by_value[0.45] < float(chance["x1"] or 0) < by_value[0.55]


def test_a_name_in_a_picture_is_escaped() -> None:
    drawn = charts.scale([charts.Mark("<script>", 0.5)], chance=0.5, title='"><script>')
    assert "<script>" not in drawn


def test_an_attack_curve_runs_from_corner_to_corner() -> None:
    drawn = charts.attack_curve({"": [(0.1, 0.2)], "control": [(0.1, 0.9)]})
    paths = [of for tag, of in tags(str(drawn)) if tag == "path"]
    assert [of["class"] for of in paths] == ["chance", "line ", "line control"]
    ends = {tuple((of["d"] or "M").lstrip("M").split("L")[0::2]) for of in paths[1:]}
    corners = (paths[0]["d"] or "M").lstrip("M").split("L")
    assert ends == {tuple(f"{float(x):.1f} {float(y):.1f}" for x, y in map(str.split, corners))}


def test_every_verdict_and_mark_has_a_headline() -> None:
    from service.console.views import models

    assert set(reports.HEADLINES) == set(models.HEADLINES)
