"""What one deletion costs: statements from the claim to the completion, words to the compute."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Record
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.jobs import pipeline

#: Statements of one deletion, at most.
MOST_STATEMENTS = 60


@pytest.fixture
def on_postgres(
    postgres_database: Engine, compute: ComputeProcess, tmp_path: Path
) -> Iterator[Place]:
    made = place.found(
        tmp_path,
        compute,
        database_url=postgres_database.url.render_as_string(hide_password=False),
    )
    yield made
    made.close()


@pytest.fixture
def sent(town: Place, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every request to unlearn that the compute process is sent."""
    seen: list[dict[str, Any]] = []
    send = town.runtime.compute._send

    def sends(line: str) -> None:
        message = json.loads(line)
        if message["operation"] == "unlearn":
            seen.append(message["request"])
        send(line)

    monkeypatch.setattr(town.runtime.compute, "_send", sends)
    return seen


@pytest.mark.postgres
def test_one_deletion_takes_a_bounded_number_of_statements(on_postgres: Place) -> None:
    first, second = on_postgres.training_rows()[:2]
    on_postgres.ask(first)
    on_postgres.work()
    request = on_postgres.ask(second)
    statements: list[str] = []

    def saw(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        # The server's clock is read every few seconds, whatever is done.
        if "clock_timestamp" not in statement:
            statements.append(statement)

    event.listen(on_postgres.runtime.engine, "after_cursor_execute", saw)
    on_postgres.work()
    event.remove(on_postgres.runtime.engine, "after_cursor_execute", saw)
    assert on_postgres.request(request).status == RequestStatus.COMPLETED
    assert any("audit_append" in one for one in statements)
    assert len(statements) <= MOST_STATEMENTS, "\n".join(statements)


def test_what_the_compute_process_is_sent_does_not_grow_with_what_was_excluded_before(
    town: Place, sent: list[dict[str, Any]]
) -> None:
    rows = town.training_rows()
    town.ask(rows[0])
    town.work()
    before = len(sent)
    town.ask(rows[1])
    town.work()
    few = len(json.dumps(sent[before]))
    town.ask(*rows[2:402])
    town.work()
    before = len(sent)
    town.ask(rows[402])
    town.work()
    assert sent[before]["row_sets"]["excluded"]["rows"] == [rows[402]]
    assert len(json.dumps(sent[before])) < few + 400  # a digit for each row that was excluded


@pytest.mark.slow
def test_a_compute_process_that_was_replaced_is_told_everything(
    town: Place, sent: list[dict[str, Any]]
) -> None:
    rows = town.training_rows()[:5]
    town.ask(*rows[:4])
    town.work()
    request = town.ask(rows[4])
    with town.begun() as found:
        sent.clear()
        pid = town.runtime.compute.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert pipeline._run(town.runtime, *found, trains=False)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    with town.runtime.session() as session:
        excluded = session.scalars(
            select(Record.row).where(Record.excluded_revision.is_not(None)).order_by(Record.row)
        ).all()
    assert [one["row_sets"]["excluded"]["rows"] for one in sent] == [[rows[4]], list(excluded)]
    assert [one["row_sets"]["excluded"]["since"] for one in sent] == [1, 0]
