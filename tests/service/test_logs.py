"""Log lines: as text or JSON, with what they belong to, and a line for each change of a state."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service import logs
from service.ledger.audit import chain
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged as JSON in the test."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter("json"))
    root = logging.getLogger("service")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def lines(written: io.StringIO, logger: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in written.getvalue().splitlines()]
    return [one for one in found if one["logger"] == logger]


@pytest.fixture
def app(database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    with callers.application(callers.settings_on(database, tmp_path / "state")) as made:
        yield made


def _append(session: Session, subject: str = "batch:b_1") -> None:
    chain.append(
        session,
        actor="worker:w",
        action=chain.Action.BATCH_COMPLETED,
        subject=subject,
        data={"model": "m", "version": 3, "because": "what a person wrote", "requests": ["dr_1"]},
    )


def test_a_line_is_an_object_with_what_it_belongs_to(written: io.StringIO) -> None:
    log = logging.getLogger("service.tests")
    with logs.about(request_id="r-1"), logs.about(batch="b_1"):
        log.warning("a %s\nand more", "message")
    log.warning("outside")
    inside, outside = lines(written, "service.tests")
    assert (inside["level"], inside["message"]) == ("warning", "a message\nand more")
    assert (inside["request_id"], inside["batch"]) == ("r-1", "b_1")
    assert datetime.fromisoformat(inside["at"]).tzinfo is not None
    assert "request_id" not in outside


def test_a_line_for_people_names_request_and_batch() -> None:
    record = logging.LogRecord("n", logging.INFO, "file", 1, "was %s", ("done",), None)
    with logs.about(request_id="r-1"):
        shown = logs.formatter("text", "%(levelname)s %(message)s").format(record)
    assert shown == "INFO was done request_id=r-1"


def test_a_line_for_people_names_a_batch_once() -> None:
    shape = logs.formatter("text", "%(message)s")
    record = logging.LogRecord("n", logging.INFO, "file", 1, "is computed", (), None)
    with logs.about(batch="b_1"):
        assert shape.format(record) == "is computed batch=b_1"
        record.fields = {"batch": "b_1"}
        assert shape.format(record) == "is computed"


def test_a_traceback_stays_in_its_line(written: io.StringIO) -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("service.tests").exception("failed")
    [line] = lines(written, "service.tests")
    assert "ValueError" in line["exception"]


def test_a_change_is_logged_once_it_is_committed(session: Session, written: io.StringIO) -> None:
    _append(session)
    session.flush()
    assert lines(written, "service.changes") == []
    with logs.about(request_id="r-1"):
        session.commit()
    session.commit()
    [line] = lines(written, "service.changes")
    assert line["message"] == "batch:completed batch:b_1 model=m version=3"
    assert {line[name] for name in ("action", "subject", "batch", "model", "actor")} == {
        "batch:completed",
        "batch:b_1",
        "b_1",
        "m",
        "worker:w",
    }
    assert (line["version"], line["request_id"]) == (3, "r-1")
    assert "what a person wrote" not in written.getvalue()


def test_what_is_rolled_back_is_not_logged(session: Session, written: io.StringIO) -> None:
    _append(session, "batch:b_0")
    session.rollback()
    savepoint = session.begin_nested()
    _append(session, "batch:b_1")
    savepoint.rollback()
    with session.begin_nested():
        _append(session, "batch:b_2")
    assert lines(written, "service.changes") == []
    session.commit()
    assert [line["subject"] for line in lines(written, "service.changes")] == ["batch:b_2"]


def test_a_request_recorded_by_another_thread_has_the_id_of_its_call(
    app: FastAPI, written: io.StringIO
) -> None:
    with app.state.sessions.begin() as session:
        data = factories.dataset(session)
        name = data.name
    writer = callers.client(app, "requests:write")
    given = {}
    for number in range(3):
        answer = writer.post(
            "/v1/deletion-requests",
            json={"dataset": name, "record_ids": ["nobody-4711"]},
            headers={"X-Request-Id": f"call-number-{number}"},
        )
        assert answer.headers["x-request-id"] == f"call-number-{number}"
        given[answer.json()["id"]] = f"call-number-{number}"
    told = lines(written, "service.changes")
    assert {line["subject"]: line["request_id"] for line in told if "request_id" in line} == {
        f"deletion_request:{one}": call for one, call in given.items()
    }
    access = [line["request_id"] for line in lines(written, "service.access")]
    assert access == list(given.values())
    assert "nobody-4711" not in written.getvalue()


@pytest.mark.parametrize("given", ["", "short", "anna@example.org", "a b c d e f g h", "x" * 65])
def test_what_is_no_request_id_is_replaced(app: FastAPI, given: str) -> None:
    answer = callers.client(app).get("/healthz", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


def test_a_problem_names_its_request(app: FastAPI) -> None:
    answer = callers.client(app).get("/v1/models/absent", headers={"X-Request-Id": "call-4711"})
    assert_problem(answer, 404)
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "call-4711"
