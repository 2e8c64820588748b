"""Every installed method as the workers announce it, asked for over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from sqlalchemy import Engine, select

from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import Dataset, Erasure, Model, Version
from service.ledger.registry import capabilities, models
from service.ledger.requests import lookup
from service.messages import wire
from service.messages.catalogue import CATALOGUE, Request
from tests import factories
from tests.factories import NOW
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from unlearning import methods
from unlearning.core.update_log import UpdateLog
from workers.compute import catalogue, logs

URL = "/v1/deletion-requests"
MODEL = "/v1/models/m"
RUN_NOW = f"{MODEL}/batches:run-now"
RECORDS_ONLY = [name for name in methods.names() if "class" not in methods.get(name).forgets]


@cache
def announced() -> str:
    """What a compute process answers a worker that asks what is installed."""
    answer = catalogue.run(Request(), None, lambda _seen: None)
    return wire.write_answer(CATALOGUE, answer)


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    """A model ``m`` with a live version, on a dataset ``d``; all that is installed is announced."""
    with callers.application(callers.settings_on(sqlite_database, tmp_path)) as running:
        with running.state.sessions() as session:
            reply = wire.read_reply(CATALOGUE, announced())
            assert isinstance(reply, wire.Answered)
            made = reply.answer.announcements
            capabilities.announce(session, made, now=NOW)
            model = factories.model(session, factories.dataset(session, name="d"), name="m")
            factories.version(session, model)
            session.commit()
        yield running


def wait(app: FastAPI, *, kind: str = "records", **columns: Any) -> str:
    """A request for the model, with its share unless the status given is another one; its id."""
    with app.state.sessions() as session:
        data = session.scalars(select(Dataset)).one()
        made = factories.request(session, data, kind=kind, **columns)
        if made.status == RequestStatus.ACCEPTED:
            factories.erasure(session, made, session.scalars(select(Model)).one())
        session.commit()
        return str(made.id)


def keep_log(app: FastAPI) -> None:
    """A log of the live version's training is stored."""
    with app.state.sessions() as session:
        live = session.scalars(select(Version)).one()
        factories.artifact(session, live, kind="logs")
        session.commit()


def change_policy(app: FastAPI, **policy: Any) -> Any:
    return callers.client(app, "models:write").patch(MODEL, json={"policy": policy})


# Each method by its name.


@pytest.mark.parametrize("method", methods.names())
def test_run_now_takes_every_installed_method(app: FastAPI, method: str) -> None:
    wait(app)
    keep_log(app)
    client = callers.client(app, "models:write")
    answer = client.post(RUN_NOW, json={"method": method})
    assert answer.status_code == 202, answer.text
    assert answer.json()["method"] == method
    with app.state.sessions() as session:
        chosen = models.get(session, "m").run_now_method
    assert chosen == {"method": method, "options": {}}
    wrong = client.post(RUN_NOW, json={"method": method, "options": {"no_such_option": 1}})
    assert_problem(wrong, 422, "options", "not known")


@pytest.mark.parametrize("method", methods.names())
def test_every_installed_method_may_be_the_policys(app: FastAPI, method: str) -> None:
    answer = change_policy(app, method=method, keep_update_log=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()["policy"]["method"] == method


@pytest.mark.parametrize(
    ("architecture", "policy", "method"),
    [
        ("ridge", {}, "downdate"),
        ("ridge", {"method": "retrain"}, "retrain"),
        ("mlp", {}, "iau"),
    ],
)
def test_policy_without_a_method_has_the_one_of_the_architecture(
    app: FastAPI, architecture: str, policy: dict[str, Any], method: str
) -> None:
    body = {
        "name": "second",
        "dataset": "d",
        "architecture": {"name": architecture},
        "policy": {"max_wait_seconds": 0, **policy},
    }
    answer = callers.client(app, "models:write").post("/v1/models", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["policy"]["method"] == method


# Methods that forget records only.


@pytest.mark.parametrize("method", RECORDS_ONLY)
def test_class_is_not_asked_of_a_method_that_forgets_records_only(
    app: FastAPI, method: str
) -> None:
    assert change_policy(app, method=method).status_code == 200
    answer = callers.client(app).post(URL, json={"dataset": "d", "label": 1})
    assert_problem(answer, 422, "method-cannot-forget-classes", method)
    assert callers.client(app).get(URL).json()["items"] == []


@pytest.mark.parametrize("method", RECORDS_ONLY)
@pytest.mark.parametrize("status", [RequestStatus.ACCEPTED, RequestStatus.AWAITING_APPROVAL])
def test_policy_keeps_a_method_for_the_class_that_waits(
    app: FastAPI, method: str, status: RequestStatus
) -> None:
    wait(app, kind="class", status=status)
    assert_problem(change_policy(app, method=method), 422, "class", method)
    assert change_policy(app, method="retrain").status_code == 200
    assert change_policy(app, max_wait_seconds=5).status_code == 200


@pytest.mark.parametrize("method", RECORDS_ONLY)
def test_policy_may_change_once_the_class_is_forgotten(app: FastAPI, method: str) -> None:
    wait(app, kind="class")
    with app.state.sessions() as session:
        session.scalars(select(Erasure)).one().status = ErasureStatus.COMPLETED
        session.commit()
    assert change_policy(app, method=method).status_code == 200


@pytest.mark.parametrize("method", RECORDS_ONLY)
def test_class_is_not_approved_for_a_method_that_forgets_records_only(
    app: FastAPI, method: str
) -> None:
    """The policy was written before the request came; a model may have joined since."""
    request = wait(app, kind="class", status=RequestStatus.AWAITING_APPROVAL)
    with app.state.sessions() as session:
        model = models.get(session, "m")
        model.policy = {**model.policy, "method": method}
        session.commit()
    approver = callers.client(app, "requests:approve")
    answer = approver.post(f"{URL}/{request}:approve")
    assert_problem(answer, 422, "method-cannot-forget-classes", method)
    with app.state.sessions() as session:
        assert session.scalars(select(Erasure)).all() == []
        assert lookup.get(session, request).status == RequestStatus.AWAITING_APPROVAL
    assert change_policy(app, method="retrain").status_code == 200
    assert approver.post(f"{URL}/{request}:approve").json()["status"] == "accepted"


# The method that needs a log of the training.


@pytest.mark.parametrize(
    "chosen", [{"method": "amnesiac"}, {"fallbacks": [{"method": "amnesiac"}]}]
)
def test_policy_that_needs_a_log_keeps_one(app: FastAPI, chosen: dict[str, Any]) -> None:
    assert_problem(change_policy(app, **chosen), 422, "keep_update_log", "amnesiac")
    assert change_policy(app, **chosen, keep_update_log=True).status_code == 200
    assert_problem(change_policy(app, keep_update_log=False), 422, "keep_update_log")
    body = {
        "name": "second",
        "dataset": "d",
        "architecture": {"name": "mlp"},
        "policy": {**chosen, "keep_update_log": False},
    }
    assert_problem(callers.client(app).post("/v1/models", json=body), 422, "keep_update_log")


def test_run_now_needs_the_log_that_the_method_takes_back_from(app: FastAPI) -> None:
    wait(app)
    client = callers.client(app, "models:write")
    assert_problem(client.post(RUN_NOW, json={"method": "amnesiac"}), 422, "log", "training run")
    with app.state.sessions() as session:
        assert models.get(session, "m").run_now_at is None
    keep_log(app)
    assert client.post(RUN_NOW, json={"method": "amnesiac"}).status_code == 202


def test_size_of_the_update_log_is_shown_with_the_version(app: FastAPI) -> None:
    kept = UpdateLog(max_bytes=1 << 20)
    kept.append(torch.arange(32), torch.zeros(1000))
    with app.state.sessions() as session:
        session.scalars(select(Version)).one().notes = logs.describe(kept)
        session.commit()
    shown = callers.client(app, "models:read").get(f"{MODEL}/versions/1").json()
    assert shown["notes"]["update_log"] == {
        "batches": 1,
        "complete": True,
        "size_bytes": 32 * 8 + 1000 * 4,
        "max_bytes": 1 << 20,
    }
