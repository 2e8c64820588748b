"""Batches of a model that are run at once, and their list."""

from __future__ import annotations

from fastapi import FastAPI

from service.ledger.database.states import BatchStatus
from service.ledger.registry import models
from tests import factories
from tests.service.api import callers, made_models
from tests.service.api.callers import assert_problem
from tests.service.api.made_models import asked_model, published_model

APPLICATION = made_models.application


def test_run_now_closes_the_next_batch_with_another_method(app: FastAPI) -> None:
    name = published_model(app)
    with app.state.sessions() as session:
        made = models.get(session, name)
        asked = factories.request(session, session.get_one(factories.Dataset, made.dataset_id))
        factories.erasure(session, asked, made)
        session.commit()
    client = callers.client(app, "models:write")
    path = f"/v1/models/{name}/batches:run-now"
    answer = client.post(path, json={"method": "retrain"})
    assert answer.status_code == 202
    assert answer.json()["pending"] == {"records": 1}
    with app.state.sessions() as session:
        row = models.get(session, name)
        assert row.run_now_at is not None
        assert row.run_now_method == {"method": "retrain", "options": {}}
    assert client.post(path, json={}).json()["method"] is None
    with app.state.sessions() as session:
        assert models.get(session, name).run_now_method is None
    assert_problem(client.post(path, json={"method": "magic"}), 422, "iau, retrain")
    assert_problem(client.post(path, json={"method": "iau", "options": {"x": 1}}), 422, "options")
    assert_problem(client.post(path, json={"options": {"x": 1}}), 422, "method")


def test_run_now_refuses_a_method_that_cannot_do_the_kind_of_forgetting(app: FastAPI) -> None:
    name = published_model(app)
    with app.state.sessions() as session:
        made = models.get(session, name)
        data = session.get_one(factories.Dataset, made.dataset_id)
        factories.erasure(session, factories.request(session, data, kind="class"), made)
        session.commit()
    client = callers.client(app, "models:write")
    path = f"/v1/models/{name}/batches:run-now"
    assert_problem(client.post(path, json={"method": "iau"}), 422, "class")
    assert client.post(path, json={"method": "retrain"}).status_code == 202


def test_run_now_is_exact_or_refused_once_the_live_version_left_a_class(app: FastAPI) -> None:
    name = published_model(app)
    with app.state.sessions() as session:
        made = models.get(session, name)
        data = session.get_one(factories.Dataset, made.dataset_id)
        base = session.get_one(factories.Version, made.production_id)
        gone = factories.request(session, data, kind="class")
        factories.unlearned(session, made, base, [gone])
        session.commit()
    client = callers.client(app, "models:write")
    path = f"/v1/models/{name}/batches:run-now"
    assert_problem(client.post(path, json={"method": "iau"}), 409, "could bring it back")
    for asked in ({}, {"method": "retrain"}):
        answer = client.post(path, json=asked)
        assert (answer.status_code, answer.json()["method"]) == (202, "retrain")


def test_run_now_needs_a_production_version(app: FastAPI) -> None:
    client = callers.client(app)
    client.post("/v1/models", json=asked_model())
    answer = client.post("/v1/models/reader/batches:run-now", json={})
    assert_problem(answer, 409, "no production version")


def test_batches_are_listed_and_name_their_requests(app: FastAPI) -> None:
    name = published_model(app)
    with app.state.sessions() as session:
        made = models.get(session, name)
        data = session.get_one(factories.Dataset, made.dataset_id)
        base = models.production(session, made)
        assert base is not None
        asked = factories.request(session, data, rows=[2, 3])
        factories.unlearned(session, made, base, [asked])
        running = factories.batch(session, made, base, rows=[4], status=BatchStatus.RUNNING)
        other = factories.model(session, data, name="other")
        session.commit()
        expected, running_id = asked.id, running.id
        assert other.id
    client = callers.client(app, "models:read")
    items = client.get(f"/v1/models/{name}/batches").json()["items"]
    assert [one["status"] for one in items] == ["running", "completed"]
    assert (items[1]["records"], items[1]["base_version"], items[1]["version"]) == (2, 1, 2)
    shown = client.get(f"/v1/models/{name}/batches/{items[1]['id']}").json()
    assert shown["deletion_requests"] == [expected]
    first = client.get(f"/v1/models/{name}/batches", params={"limit": 1}).json()
    rest = client.get(f"/v1/models/{name}/batches", params={"cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in rest["items"]] == [items[1]["id"]]
    assert_problem(client.get(f"/v1/models/other/batches/{running_id}"), 404)
    assert_problem(client.get(f"/v1/models/{name}/batches/b_x"), 422)
