"""Training runs over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select

from service.ledger.database.states import RunStatus
from service.ledger.database.tables import AuditEvent, Erasure
from service.ledger.registry import models
from service.ledger.training import runs
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

PATH = "/v1/models/reader/training-runs"


@pytest.fixture
def app(sqlite_database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    settings = callers.settings_on(sqlite_database, tmp_path)
    with callers.application(settings) as running:
        with running.state.sessions() as session:
            data = factories.dataset(session, name="digits")
            factories.model(session, data, name="reader")
            session.commit()
        yield running


def test_a_run_is_queued_once_at_a_time(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    answer = client.post(PATH, json={"seed": 2**62 + 1})
    assert answer.status_code == 202
    shown = client.get(answer.headers["Location"]).json()
    assert shown == answer.json()
    assert (shown["status"], shown["reason"], shown["seed"]) == ("queued", "initial", 2**62 + 1)
    second = client.post(PATH, json={})
    assert_problem(second, 409, shown["id"])
    assert int(second.headers["Retry-After"]) > 0
    assert client.get("/v1/models/reader").json()["active_training_run"] == shown["id"]
    with app.state.sessions() as session:
        lines = session.scalars(select(AuditEvent).where(AuditEvent.subject == "model:reader"))
        assert [line.action for line in lines] == ["training_run:queued"]


def test_revision_that_was_given_is_shown_and_an_unknown_one_refused(app: FastAPI) -> None:
    client = callers.client(app, "models:write", "models:read")
    assert_problem(client.post(PATH, json={"data_revision": 1}), 422, "data_revision")
    assert_problem(client.post(PATH, json={"data_revision": -1}), 422, "fields")
    shown = client.post(PATH, json={"data_revision": 0}).json()
    assert (shown["asked_revision"], shown["data_revision"]) == (0, None)


def test_progress_result_and_history_are_shown(app: FastAPI) -> None:
    client = callers.client(app)
    run_id = client.post(PATH, json={}).json()["id"]
    with app.state.sessions() as session:
        run = session.get_one(factories.TrainingRun, run_id)
        runs.start(session, run, data_revision=0, actor="worker:w", now=factories.NOW)
        session.commit()
        runs.progress(session, run_id, {"fraction": 0.5, "epoch": 3, "epochs": 6})
        session.commit()
    shown = client.get(f"{PATH}/{run_id}").json()
    assert shown["status"] == "running"
    assert shown["progress"] == {"fraction": 0.5, "epoch": 3, "epochs": 6}
    assert (shown["curve"], shown["withheld"]) == ([], None)
    with app.state.sessions() as session:
        run = session.get_one(factories.TrainingRun, run_id)
        model = models.get(session, "reader")
        made = factories.version(session, model, training_run_id=run_id)
        runs.complete(session, run, made, actor="worker:w", now=factories.NOW)
        session.commit()
    shown = client.get(f"{PATH}/{run_id}").json()
    assert (shown["status"], shown["version"], shown["attempts"]) == ("completed", 1, 1)
    second = client.post(PATH, json={"reason": "consolidate"}).json()
    items = client.get(PATH).json()["items"]
    assert [one["id"] for one in items] == [second["id"], run_id]
    page = client.get(PATH, params={"limit": 1}).json()
    rest = client.get(PATH, params={"cursor": page["next_cursor"]}).json()
    assert [one["id"] for one in rest["items"]] == [run_id]


SAME = {"retain": 0, "calibration": 0, "audit": 0}


@pytest.mark.parametrize(
    ("changes", "sizes", "loss", "held_out"),
    [
        (SAME, (10, 10), True, True),
        ({**SAME, "audit": 3}, (10, 10), True, True),
        ({**SAME, "retain": 3}, (10, 10), False, True),
        ({**SAME, "calibration": 1}, (10, 10), True, False),
        (SAME, (9, 10), False, True),
        (SAME, (10, 9), True, False),
        (None, (10, 10), False, False),
    ],
)
def test_losses_by_epoch_are_shown_unless_they_tell_of_very_few_rows(
    app: FastAPI,
    changes: dict[str, int] | None,
    sizes: tuple[int, int],
    loss: bool,
    held_out: bool,
) -> None:
    client = callers.client(app, "models:read", "models:write")
    run_id = client.post(PATH, json={}).json()["id"]
    with app.state.sessions() as session:
        run = session.get_one(factories.TrainingRun, run_id)
        shown = None if changes is None else {"revision": 0, "rows": changes}
        runs.start(session, run, data_revision=0, actor="worker:w", now=factories.NOW)
        if shown is not None:
            runs.compared(session, run, shown)
        curve = {
            "training_rows": sizes[0],
            "validation_rows": sizes[1],
            "epochs": [[2.5, 2.25, 0.5, 0.1], [1.5, 2.0, 0.75, None]],
        }
        runs.draw(session, run_id, curve)
        session.commit()
    found = client.get(f"{PATH}/{run_id}").json()
    assert found["curve"] == [
        {
            "epoch": epoch,
            "training_loss": values[0] if loss else None,
            "validation_loss": values[1] if held_out else None,
            "validation_accuracy": values[2] if held_out else None,
            "learning_rate": values[3],
        }
        for epoch, values in enumerate(curve["epochs"], 1)
    ]
    assert (found["withheld"] is None) == (loss and held_out)
    assert "curve" not in client.get(PATH).json()["items"][0]
    auditor = callers.client(app, "models:read", "audit:read")
    everything = auditor.get(f"{PATH}/{run_id}").json()
    assert everything["curve"][0]["training_loss"] == 2.5
    assert everything["curve"][1]["validation_accuracy"] == 0.75
    assert everything["withheld"] is None


def test_reasons_must_fit_the_model(app: FastAPI) -> None:
    client = callers.client(app)
    assert_problem(client.post(PATH, json={"reason": "consolidate"}), 409, "initial")
    with app.state.sessions() as session:
        factories.version(session, models.get(session, "reader"))
        session.commit()
    assert_problem(client.post(PATH, json={"reason": "initial"}), 409, "request")
    assert client.post(PATH, json={}).json()["reason"] == "request"


def test_a_model_that_cannot_be_built_is_not_trained(app: FastAPI) -> None:
    with app.state.sessions() as session:
        models.get(session, "reader").error = "too small an image"
        session.commit()
    assert_problem(callers.client(app).post(PATH, json={}), 409, "too small an image")


def test_open_requests_from_before_the_run_concern_the_model_too(app: FastAPI) -> None:
    with app.state.sessions() as session:
        model = models.get(session, "reader")
        data = session.get_one(factories.Dataset, model.dataset_id)
        asked = factories.request(session, data, rows=[1]).id
        done = factories.request(session, data, rows=[2], status="completed").id
        session.commit()
        model_id = model.id
    run_id = callers.client(app).post(PATH, json={}).json()["id"]
    with app.state.sessions() as session:
        run = session.get_one(factories.TrainingRun, run_id)
        runs.start(session, run, data_revision=0, actor="worker:w", now=factories.NOW)
        shares = session.scalars(select(Erasure).where(Erasure.model_id == model_id)).all()
        assert [share.request_id for share in shares] == [asked]
        assert done != asked


def test_run_is_cancelled_once_and_for_all(app: FastAPI) -> None:
    client = callers.client(app)
    run_id = client.post(PATH, json={}).json()["id"]
    first = client.post(f"{PATH}/{run_id}:cancel")
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert first.json()["finished_at"] is not None
    assert client.post(f"{PATH}/{run_id}:cancel").json() == first.json()
    assert client.get("/v1/models/reader").json()["active_training_run"] is None
    with app.state.sessions() as session:
        lines = session.scalars(select(AuditEvent).where(AuditEvent.subject == "model:reader"))
        assert [line.action for line in lines] == ["training_run:queued", "training_run:cancelled"]
    # Another one may be queued.
    assert client.post(PATH, json={}).status_code == 202


def test_ended_and_unknown_runs_cannot_be_cancelled(app: FastAPI) -> None:
    client = callers.client(app)
    run_id = client.post(PATH, json={}).json()["id"]
    assert_problem(callers.client(app, "models:read").post(f"{PATH}/{run_id}:cancel"), 403)
    with app.state.sessions() as session:
        run = session.get_one(factories.TrainingRun, run_id)
        runs.fail(session, run, error="no rows", actor="worker:w", now=factories.NOW)
        session.commit()
    assert_problem(client.post(f"{PATH}/{run_id}:cancel"), 409, "is failed")
    assert_problem(client.post(f"{PATH}/run_{'0' * 26}:cancel"), 404)


def test_bad_input_and_missing_scopes_are_refused(app: FastAPI) -> None:
    client = callers.client(app)
    for body in ({"seed": -1}, {"seed": 2**63}, {"reason": "why"}, {"more": 1}, {"seed": "x"}):
        assert_problem(client.post(PATH, json=body), 422, "fields")
    assert_problem(client.get(f"{PATH}/run_x"), 422)
    assert_problem(client.get(f"{PATH}/run_{'0' * 26}"), 404)
    assert_problem(client.post("/v1/models/nobody/training-runs", json={}), 404)
    assert_problem(callers.client(app, "models:read").post(PATH, json={}), 403)
    assert_problem(callers.client(app, "models:write").get(PATH), 403)
    with app.state.sessions() as session:
        active = [RunStatus.QUEUED, RunStatus.RUNNING]
        found = select(factories.TrainingRun).where(factories.TrainingRun.status.in_(active))
        assert session.scalars(found).all() == []
