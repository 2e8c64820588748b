"""What the workers announced, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from tests.service import announcements
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from unlearning.verification import Criteria, gates


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    settings = callers.settings_on(sqlite_database, tmp_path)
    with callers.application(settings) as running:
        yield running


def test_methods_are_listed_with_their_schemas_and_guarantees(app: FastAPI) -> None:
    with app.state.sessions() as session:
        announcements.announce(session)
        session.commit()
    client = callers.client(app, "models:read")
    items = client.get("/v1/methods").json()["items"]
    assert [one["name"] for one in items] == ["iau", "retrain"]
    assert items[0]["options_schema"]["type"] == "object"
    assert (items[0]["guarantee"], items[1]["guarantee"]) == ("empirical", "exact")
    assert items[1]["forgets"] == ["class", "records"]
    first = client.get("/v1/architectures", params={"limit": 1}).json()
    assert [one["name"] for one in first["items"]] == ["lenet5"]
    rest = client.get("/v1/architectures", params={"cursor": first["next_cursor"]}).json()
    assert "hidden" in rest["items"][0]["options_schema"]["properties"]
    (recipe,) = client.get("/v1/recipes").json()["items"]
    assert "learning_rate" in recipe["options_schema"]["properties"]


def test_gates_are_listed_with_what_they_say_of_themselves(app: FastAPI) -> None:
    with app.state.sessions() as session:
        announcements.announce(session)
        session.commit()
    client = callers.client(app, "models:read")
    shown = {one["name"]: one for one in client.get("/v1/gates").json()["items"]}
    assert shown.keys() == set(gates.names())
    limits = set()
    for gate in gates.installed():
        one = shown[gate.name]
        assert (one["summary"], one["concern"]) == (gate.question, gate.concern)
        assert (one["metric"], one["direction"]) == (gate.metric, gate.direction)
        assert (one["needs"], one["disclosure"]) == (sorted(gate.needs), gate.disclosure)
        limits |= one["options_schema"]["properties"].keys()
    schema = client.get("/v1/policy-schema").json()
    in_policies = schema["properties"]["gates"]
    criteria = {field.name for field in fields(Criteria)} - {"limits"}
    assert in_policies["properties"].keys() == limits | criteria
    given = {"method": "iau", "gates": {"membership_auc": 0.1}}
    jsonschema.validate(given, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"gates": {"membrship_auc": 0.1}}, schema)


def test_nothing_announced_is_an_empty_list_and_other_keys_may_not_look(app: FastAPI) -> None:
    assert_problem(callers.client(app).get("/v1/policy-schema"), 503)
    assert_problem(callers.client(app, "requests:read").get("/v1/policy-schema"), 403)
    for path in ("methods", "architectures", "recipes", "gates"):
        assert callers.client(app).get(f"/v1/{path}").json() == {"items": [], "next_cursor": None}
        assert_problem(callers.client(app, "requests:read").get(f"/v1/{path}"), 403)
