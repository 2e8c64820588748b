"""Models over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import AuditEvent, Model, Version
from service.settings import Settings
from tests import factories
from tests.service.api import callers, made_models
from tests.service.api.callers import assert_problem
from tests.service.api.made_models import asked_model, published_model

APPLICATION = made_models.application


def test_a_model_takes_from_its_dataset_what_its_client_left_out(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    answer = client.post("/v1/models", json=asked_model())
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/v1/models/reader"
    shown = client.get("/v1/models/reader").json()
    assert shown == answer.json()
    assert shown["architecture"]["parameters"] == {
        "channels": 1,
        "image_height": 8,
        "image_width": 8,
        "classes": 10,
        "width": 6,
    }
    assert shown["transform"] == {"scale": 1 / 255, "mean": [0.0], "std": [1.0]}
    assert shown["recipe"]["learning_rate"] == 1e-3
    assert shown["policy"]["method"] == "iau"
    assert (shown["status"], shown["production"], shown["drift"]) == ("preparing", None, None)
    with app.state.sessions() as session:
        lines = session.scalars(select(AuditEvent).where(AuditEvent.subject == "model:reader"))
        assert [line.action for line in lines] == ["model:created"]


def test_a_table_model_gets_its_inputs_and_leaves_floats_as_they_are(app: FastAPI) -> None:
    body = asked_model(dataset="table", architecture={"name": "mlp", "parameters": {"hidden": [8]}})
    shown = callers.client(app).post("/v1/models", json=body).json()
    assert shown["architecture"]["parameters"] == {"inputs": 30, "hidden": [8], "classes": 2}
    assert shown["transform"]["scale"] == 1.0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architecture": {"name": "resnet"}}, "lenet5, mlp"),
    ({"architecture": {"name": "lenet5", "parameters": {"depth": 3}}}, "architecture.parameters"),
    ({"architecture": {"name": "lenet5", "parameters": {"width": 0}}}, "parameters.width"),
    ({"architecture": {"name": "lenet5", "parameters": {"width": True}}}, "parameters.width"),
    ({"architecture": {"name": "lenet5", "parameters": {"classes": 3}}}, "must be 10"),
    ({"architecture": {"name": "lenet5", "parameters": {"channels": 3}}}, "must be 1"),
    ({"architecture": {"name": "os.system"}}, "unknown-capability"),
    ({"dataset": "table"}, "the kind image"),
    ({"recipe": {"learning_rate": -1}}, "recipe.learning_rate"),
    ({"recipe": {"speed": 1}}, "recipe"),
    ({"recipe": {"optimiser": "magic"}}, "one of"),
    ({"recipe": {"nesterov": True}}, "nesterov is an option of the optimiser sgd"),
    ({"recipe": {"schedule": "step"}}, "needs step_epochs"),
    ({"recipe": {"precision": "bfloat16"}}, "set alpha to 0"),
    ({"policy": {"method": "magic"}}, "iau, retrain"),
    ({"policy": {"method": "iau", "options": {"no_such": 1}}}, "policy.options"),
    ({"policy": {"fallbacks": [{"method": "magic"}]}}, "unknown-capability"),
    ({"policy": {"gates": {"membership_auc": 2}}}, "policy.gates.membership_auc"),
    ({"policy": {"gates": {"membrship_auc": 0.1}}}, "there are: audit_accuracy_drop"),
    ({"policy": {"max_records": 0}}, "policy.max_records"),
    ({"transform": {"std": [0.0]}}, "transform.std"),
    ({"transform": {"scale": 0}}, "transform.scale"),
    ({"transform": {"mean": [0.1, 0.2]}}, "transform.mean"),
    ({"name": "Reader"}, "name"),
    ({"extra": 1}, "extra"),
]


def test_choices_that_the_announced_schemas_refuse_are_named(app: FastAPI) -> None:
    client = callers.client(app)
    for changes, words in REFUSED:
        assert_problem(client.post("/v1/models", json=asked_model(**changes)), 422, words)
    assert client.get("/v1/models").json()["items"] == []


def test_model_has_its_architectures_recipe_unless_its_own_names_an_optimiser(
    app: FastAPI,
) -> None:
    client = callers.client(app)
    listed = {one["name"]: one for one in client.get("/v1/architectures").json()["items"]}
    assert listed["lenet5"]["recipe"] == listed["mlp"]["recipe"] == {}
    preset = listed["resnet18"]["recipe"]
    assert (preset["optimiser"], preset["nesterov"], preset["learning_rate"]) == ("sgd", True, 0.1)
    assert (preset["schedule"], preset["weight_decay"]) == ("cosine", 5e-4)
    assert preset["flip"]
    assert preset["crop_padding"]
    schema = client.get("/v1/recipes").json()["items"][0]["options_schema"]
    defaults = {name: one["default"] for name, one in schema["properties"].items()}

    def created(name: str, architecture: str, recipe: dict[str, Any]) -> dict[str, Any]:
        body = asked_model(name=name, architecture={"name": architecture}, recipe=recipe)
        answer = client.post("/v1/models", json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()["recipe"]
        return found

    assert created("a", "resnet18", {}) == {**defaults, **preset}
    assert created("b", "resnet18", {"epochs": 3, "flip": False}) == {
        **defaults,
        **preset,
        "epochs": 3,
        "flip": False,
    }
    assert created("c", "resnet18", {"optimiser": "adam"}) == defaults
    assert created("d", "lenet5", {}) == defaults


def test_a_model_needs_a_dataset_that_is_ready_and_a_name_of_its_own(app: FastAPI) -> None:
    client = callers.client(app)
    assert_problem(client.post("/v1/models", json=asked_model(dataset="nobody")), 404)
    with app.state.sessions() as session:
        for status in (DatasetStatus.INGESTING, DatasetStatus.FAILED):
            factories.dataset(session, name=status.value, status=status, rows=0)
        session.commit()
    waiting = client.post("/v1/models", json=asked_model(dataset="ingesting"))
    assert_problem(waiting, 409, "ingested")
    assert int(waiting.headers["Retry-After"]) > 0
    assert_problem(client.post("/v1/models", json=asked_model(dataset="failed")), 409)
    assert client.post("/v1/models", json=asked_model()).status_code == 201
    assert_problem(client.post("/v1/models", json=asked_model()), 409, "already")


def test_without_any_worker_options_cannot_be_checked(settings: Settings) -> None:
    with callers.application(settings) as app:
        with app.state.sessions() as session:
            factories.dataset(session, name="digits")
            session.commit()
        answer = callers.client(app).post("/v1/models", json=asked_model())
        assert_problem(answer, 503, "no worker has announced itself yet")
        assert int(answer.headers["Retry-After"]) > 0


def test_a_policy_changes_field_by_field_and_the_change_is_audited(app: FastAPI) -> None:
    name = published_model(app)
    client = callers.client(app, "models:write", "models:read")
    change = {"policy": {"max_records": 7, "drift": {"max_class_share": 0.5}}}
    shown = client.patch(f"/v1/models/{name}", json=change).json()["policy"]
    assert (shown["max_records"], shown["method"]) == (7, "iau")
    assert shown["drift"]["max_share"] == 0.1
    assert shown["drift"]["max_class_share"] == 0.5
    other = client.patch(f"/v1/models/{name}", json={"policy": {"method": "retrain"}}).json()
    assert (other["policy"]["method"], other["policy"]["max_records"]) == ("retrain", 7)
    with app.state.sessions() as session:
        lines = session.scalars(
            select(AuditEvent).where(AuditEvent.action == "model:policy_changed")
        ).all()
    assert [line.data["after"].get("max_records") for line in lines] == [7, None]
    assert lines[1].data["before"]["method"] == "iau"
    refused = client.patch(f"/v1/models/{name}", json={"policy": {"method": "magic"}})
    assert_problem(refused, 422)
    assert_problem(client.patch(f"/v1/models/{name}", json={"name": "x"}), 422)
    assert client.get(f"/v1/models/{name}").json()["policy"] == other["policy"]


def test_margins_are_asked_for_part_by_part_and_their_state_is_shown(app: FastAPI) -> None:
    name = published_model(app)
    client = callers.client(app, "models:write", "models:read")
    hour = {"max_training_seconds": 3600.0}
    shown = client.get(f"/v1/models/{name}").json()
    assert shown["margins"]["models"] == 6
    off = client.patch(f"/v1/models/{name}", json={"policy": {"margins": {"splits": 0}}}).json()
    assert off["margins"] is None
    shown = client.patch(f"/v1/models/{name}", json={"policy": {"margins": {"splits": 2}}}).json()
    assert shown["policy"]["margins"] == {"splits": 2, "folds": 2, **hour}
    assert shown["margins"] == {
        "state": "waiting",
        "reason": None,
        "models": 4,
        "trained": 0,
        "epochs": 0.0,
        "rows": 0,
    }
    more = client.patch(f"/v1/models/{name}", json={"policy": {"margins": {"folds": 3}}}).json()
    assert more["policy"]["margins"] == {"splits": 2, "folds": 3, **hour}
    for wrong in ({"splits": 5}, {"splits": -1}, {"folds": 1}, {"folds": 9}, {"models": 2}):
        change = {"policy": {"margins": wrong}}
        assert_problem(client.patch(f"/v1/models/{name}", json=change), 422)


def test_margins_of_a_training_that_took_too_long_are_unavailable(app: FastAPI) -> None:
    name = published_model(app)
    with app.state.sessions() as session:
        version = session.scalars(select(Version)).one()
        version.timings = {"train": 4000.0, "measure": 1.0}
        session.commit()
    client = callers.client(app, "models:write", "models:read")
    seen = client.get(f"/v1/models/{name}").json()["margins"]
    assert seen["state"] == "unavailable"
    assert "4000 s" in seen["reason"]
    change = {"policy": {"margins": {"max_training_seconds": 5000}}}
    seen = client.patch(f"/v1/models/{name}", json=change).json()["margins"]
    assert seen["state"] == "waiting"


def test_margins_of_an_imported_version_are_unavailable(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = factories.dataset(session, name="live-data")
        policy = {"method": "iau", "options": {}, "margins": {"splits": 1}}
        made = factories.model(session, data, name="live", policy=policy)
        factories.version(session, made, origin="imported")
        session.commit()
    seen = callers.client(app, "models:read").get("/v1/models/live").json()["margins"]
    assert seen["state"] == "unavailable"
    assert "train the model here" in seen["reason"]


def test_a_change_of_nothing_changes_nothing(app: FastAPI) -> None:
    with app.state.sessions() as session:
        # Made by an older release: its policy lacks what came later.
        factories.model(session, factories.dataset(session), name="old", policy={})
        session.commit()
    client = callers.client(app)
    for change in ({}, {"drift": {}}, {"approval": {}}, {"method": "iau"}):
        assert client.patch("/v1/models/old", json={"policy": change}).status_code == 200
    with app.state.sessions() as session:
        lines = select(AuditEvent).where(AuditEvent.action == "model:policy_changed")
        assert session.scalars(lines).all() == []


def test_another_method_starts_from_its_own_defaults(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = factories.dataset(session)
        old = {"method": "iau", "options": {"step": "sgd"}}
        factories.model(session, data, name="old", policy=old)
        session.commit()
    changed = callers.client(app).patch("/v1/models/old", json={"policy": {"method": "retrain"}})
    assert changed.json()["policy"]["options"] == {}


def test_a_model_shows_how_far_production_has_drifted_from_its_anchor(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = factories.dataset(session, rows=10, labels=[0] * 4 + [1] * 6, splits=[0] * 9 + [1])
        made = factories.model(session, data, name="drifting")
        anchor = factories.version(session, made)
        first = factories.unlearned(
            session, made, anchor, [factories.request(session, data, rows=[0, 1])]
        )
        factories.unlearned(session, made, first, [factories.request(session, data, rows=[5])])
        session.commit()
    client = callers.client(app, "models:read")
    drift = client.get("/v1/models/drifting").json()["drift"]
    assert (drift["anchor"], drift["batches"]) == (1, 2)
    assert (drift["forgotten"], drift["anchor_rows"]) == (3, 9)
    assert drift["share"] == pytest.approx(3 / 9)
    assert drift["class_share"] is None  # three rows: it would tell their class


def test_the_share_of_a_class_is_told_from_ten_forgotten_rows_on(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = factories.dataset(session, rows=40, labels=[0, 1] * 20, splits=[0] * 40)
        made = factories.model(session, data, name="drifting")
        asked = factories.request(session, data, rows=list(range(0, 20, 2)))
        factories.unlearned(session, made, factories.version(session, made), [asked])
        session.commit()
    drift = callers.client(app, "models:read").get("/v1/models/drifting").json()["drift"]
    assert (drift["forgotten"], drift["class_share"]) == (10, 0.5)


def test_models_are_listed_in_pages_for_keys_that_may(app: FastAPI) -> None:
    with app.state.sessions() as session:
        data = factories.dataset(session)
        for name, columns in (("a", {}), ("b", {"parameters": None}), ("c", {"error": "no"})):
            factories.model(session, data, name=name, **columns)
        session.commit()
    client = callers.client(app, "models:read")
    first = client.get("/v1/models", params={"limit": 2}).json()
    rest = client.get("/v1/models", params={"cursor": first["next_cursor"]}).json()
    shown = [(one["name"], one["status"]) for one in first["items"] + rest["items"]]
    assert shown == [("a", "ready"), ("b", "preparing"), ("c", "invalid")]
    assert_problem(client.post("/v1/models", json=asked_model()), 403)
    assert_problem(client.patch("/v1/models/a", json={"policy": {}}), 403)
    assert_problem(client.get("/v1/models/nobody"), 404)
    assert_problem(callers.client(app, "requests:write").get("/v1/models"), 403)


def test_a_refused_model_leaves_nothing_behind(app: FastAPI) -> None:
    callers.client(app).post("/v1/models", json=asked_model(policy={"method": "magic"}))
    with app.state.sessions() as session:
        assert session.scalars(select(Model)).all() == []
        assert (
            session.scalars(select(AuditEvent).where(AuditEvent.subject.like("model:%"))).all()
            == []
        )
