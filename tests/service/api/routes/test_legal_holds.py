"""Legal holds over HTTP: who may see which are in force, page by page."""

from __future__ import annotations

from fastapi import FastAPI

from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

URL = "/v1/legal-holds"


def _held(app: FastAPI, count: int) -> list[str]:
    """Requests under a legal hold, in the order of their holds."""
    with app.state.sessions.begin() as session:
        data = factories.dataset(session, name="faces", rows=count)
        made = [factories.request(session, data, rows=[row]).id for row in range(count)]
    client = callers.client(app, "requests:approve")
    for one in made:
        body = {"reason_code": "authority_order", "reason": "docket 4711"}
        placed = client.post(f"/v1/deletion-requests/{one}:hold", json=body)
        assert placed.status_code == 200, placed.text
    return made


def test_holds_are_listed_by_pages_and_leave_the_list_when_they_are_released(
    app: FastAPI,
) -> None:
    made = _held(app, 3)
    client = callers.client(app, "requests:read")
    first = client.get(URL, params={"limit": 2}).json()
    second = client.get(URL, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["request"] for one in first["items"] + second["items"]] == made
    assert second["next_cursor"] is None
    assert {one["reason_code"] for one in first["items"]} == {"authority_order"}
    released = callers.client(app, "requests:approve").post(
        f"/v1/deletion-requests/{made[0]}:release-hold", json={"reason": "closed"}
    )
    assert released.status_code == 200
    assert [one["request"] for one in client.get(URL).json()["items"]] == made[1:]
    everything = client.get(URL, params={"in_force": "false"}).json()["items"]
    assert [one["request"] for one in everything] == made
    assert everything[0]["release_reason"] == "closed"


def test_only_whoever_may_read_requests_may_list_holds(app: FastAPI) -> None:
    assert_problem(callers.client(app, "models:read").get(URL), 403, "requests:read")
