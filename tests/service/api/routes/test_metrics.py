"""A monitoring system reads numbers about the whole installation, and nothing about a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.registry import counts
from service.ledger.reports import operations
from tests import factories
from tests.service.api import callers
from tests.service.api.callers import assert_problem

RULES = Path(__file__).parents[4] / "deploy" / "prometheus-rules.yml"


@pytest.fixture
def app(database: Engine, tmp_path: Path) -> Iterator[FastAPI]:
    with callers.application(callers.settings_on(database, tmp_path / "state")) as made:
        yield made


@pytest.fixture
def watcher(app: FastAPI) -> TestClient:
    return callers.client(app, "metrics:read")


def _numbers(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(text: str, name: str, **labels: str) -> float | None:
    return _numbers(text).get((f"unlearn_{name}", frozenset(labels.items())))


def test_every_state_is_counted_as_it_is_in_the_ledger(app: FastAPI, watcher: TestClient) -> None:
    now = db.now()
    with app.state.sessions.begin() as session:
        data = factories.dataset(session)
        owner = factories.model(session, data)
        for status, days in (
            (RequestStatus.ACCEPTED, -1),
            (RequestStatus.ACCEPTED, 5),
            (RequestStatus.PROCESSING, 1),
            (RequestStatus.COMPLETED, -30),
        ):
            asked = factories.request(
                session,
                data,
                status=status,
                created_at=now - timedelta(hours=3),
                due_at=now + timedelta(days=days),
            )
        factories.erasure(session, asked, owner)
    callers.beat(app)
    text = watcher.get("/metrics").text
    assert _value(text, "deletion_requests", state="accepted") == 2
    assert _value(text, "deletion_requests", state="processing") == 1
    assert _value(text, "deletion_requests", state="completed") is None  # history
    assert _value(text, "erasures", state="pending") == 1
    left = "deletion_requests_days_left"
    due = {days: _value(text, f"{left}_bucket", le=days) for days in ("0.0", "2.0", "7.0", "+Inf")}
    assert due == {"0.0": 1, "2.0": 2, "7.0": 3, "+Inf": 3}
    assert _value(text, f"{left}_gcount") == 3
    assert _value(text, f"{left}_gsum") == pytest.approx(5, abs=0.01)
    age = "deletion_requests_age_days"
    assert _value(text, f"{age}_bucket", state="accepted", le="1.0") == 2
    assert _value(text, f"{age}_gsum", state="accepted") == pytest.approx(2 * 3 / 24, abs=0.01)
    oldest = _value(text, "deletion_request_oldest_seconds", state="accepted")
    assert oldest == pytest.approx(3 * 3600, abs=60)
    assert _value(text, "deletion_request_oldest_seconds", state="completed") is None
    assert _value(text, "workers_alive") == 1
    assert _value(text, "leases_held") == 0


def test_what_ends_is_counted_by_its_lines_in_the_chain(app: FastAPI, watcher: TestClient) -> None:
    def append(times: int) -> None:
        with app.state.sessions.begin() as session:
            for _ in range(times):
                chain.append(
                    session,
                    actor="worker:w",
                    action=chain.Action.BATCH_COMPLETED,
                    subject="batch:b_1",
                    data={},
                )

    def counted() -> float | None:
        return _value(watcher.get("/metrics").text, "audit_lines_total", action="batch:completed")

    append(5)
    assert counted() is None  # from before this process began to count
    append(2)
    assert counted() == 2
    assert counted() == 2
    append(1)
    assert counted() == 3


def test_requests_are_counted_by_template_and_never_by_what_a_client_sent(
    app: FastAPI, watcher: TestClient
) -> None:
    reader = callers.client(app, "requests:read")
    secret = "anna-4711"
    assert_problem(reader.get(f"/v1/deletion-requests/{secret}"), 422)
    reader.request(secret, "/v1/models")
    reader.get(f"/{secret}")
    text = watcher.get("/metrics").text
    assert secret not in text
    known = {labels for name, labels in _numbers(text) if name == "unlearn_http_requests_total"}
    templates = {dict(labels)["path"] for labels in known}
    assert any(one.startswith("/v1/deletion-requests/{") for one in templates), templates
    assert "(no such path)" in templates


def test_counts_of_workers_are_summed(app: FastAPI, watcher: TestClient) -> None:
    for name, seconds in (("a", 0.3), ("b", 0.4), ("c", 99_999.0)):
        counter = counts.Counter()
        counter.observe(counts.PHASES, "update", seconds=seconds)
        counter.add(counts.CALLS, "unlearn", "answered")
        counter.add(counts.BUSY, "deletions", by=1.5)
        callers.beat(app, name, counter.now())
    text = watcher.get("/metrics").text
    assert _value(text, "compute_calls_total", operation="unlearn", outcome="answered") == 3
    assert _value(text, "lane_busy_seconds_total", lane="deletions") == 4.5
    within = {
        bound: _value(text, "batch_phase_seconds_bucket", phase="update", le=bound)
        for bound in ("0.1", "0.3", "1.0", "10000.0", "+Inf")
    }
    assert within == {"0.1": 0, "0.3": 1, "1.0": 2, "10000.0": 2, "+Inf": 3}
    assert _value(text, "batch_phase_seconds_count", phase="update") == 3
    assert _value(text, "batch_phase_seconds_sum", phase="update") == pytest.approx(99_999.7)


def test_openmetrics_is_answered_to_who_accepts_it(app: FastAPI, watcher: TestClient) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    counter = counts.Counter()
    counter.observe(counts.PHASES, "update", seconds=0.3)
    callers.beat(app, "w", counter.now())
    answer = watcher.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = list(openmetrics.text_string_to_metric_families(answer.text))
    assert {
        "unlearn_deletion_requests",
        "unlearn_http_requests",
        "unlearn_batch_phase_seconds",
    } <= {f.name for f in families}


def test_alert_rules_ask_for_numbers_that_exist(app: FastAPI, watcher: TestClient) -> None:
    with app.state.sessions.begin() as session:
        data = factories.dataset(session)
        factories.request(session, data)
        factories.request(session, data, status=RequestStatus.NEEDS_REVIEW)
    names = {name for name, _ in _numbers(watcher.get("/metrics").text)}
    rules = yaml.safe_load(RULES.read_text())["groups"]
    asked = {
        word
        for group in rules
        for rule in group["rules"]
        for word in re.findall(r"unlearn_\w+", rule["expr"])
    }
    assert asked
    assert asked <= names


def test_an_alert_fires_when_no_number_arrives() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"]
    expressions = [rule["expr"] for group in rules for rule in group["rules"]]
    assert any(re.fullmatch(r"absent\(unlearn_\w+\)", one) for one in expressions), expressions


def test_a_key_without_the_scope_reads_nothing(app: FastAPI) -> None:
    assert_problem(TestClient(app).get("/metrics"), 401)
    assert_problem(callers.client(app, "requests:read").get("/metrics"), 403, "metrics:read")


def test_a_look_takes_the_same_few_statements_whatever_the_ledger_holds(
    app: FastAPI, database: Engine
) -> None:
    counted: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        counted.append(statement)

    event.listen(app.state.engine, "before_cursor_execute", count)
    taken = []
    for more in (0, 30):
        with app.state.sessions.begin() as session:
            data = factories.dataset(session)
            for _ in range(more):
                factories.request(session, data)
        counted.clear()
        with app.state.sessions() as session:
            operations.look(session, beat_seconds=10)
        taken.append(len([one for one in counted if one.startswith("SELECT")]))
    assert taken[0] == taken[1] <= 14
