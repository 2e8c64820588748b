"""Moves between states: in one place, allowed ones only, and never without an audit line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

import service
import workers
from service.ledger.audit import chain, machines
from service.ledger.database.states import IllegalMove, RunStatus
from service.ledger.database.tables import AuditEvent, TrainingRun
from service.ledger.training import runs
from tests import factories
from tests.factories import NOW

MACHINES = Path(machines.__file__)


def assignments(path: Path) -> Iterator[int]:
    """Lines on which an attribute or a column called status is assigned."""
    for node in ast.walk(ast.parse(path.read_text())):
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign | ast.AugAssign) and node.value is not None
            else []
        )
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Attribute) and one.attr == "status":
                    yield node.lineno
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            set_here = called in ("values", "on_conflict_do_update") and any(
                word.arg == "status" for word in node.keywords
            )
            by_name = (
                isinstance(node.func, ast.Name)
                and node.func.id == "setattr"
                and isinstance(node.args[1], ast.Constant)
                and node.args[1].value == "status"
            )
            if set_here or by_name:
                yield node.lineno


def test_no_status_is_assigned_outside_the_machines() -> None:
    found = {
        f"{path.parent.name}/{path.name}:{line}"
        for package in (service, workers)
        for path in Path(package.__path__[0]).rglob("*.py")
        if not {"api", "client"} & set(path.parts)  # an answer has a status of its own
        for line in assignments(path)
        if path != MACHINES
    }
    assert found == set()
    assert len(list(assignments(MACHINES))) == 2


@pytest.fixture
def run(session: Session) -> TrainingRun:
    model = factories.model(session, factories.dataset(session), name="reader")
    made = runs.create(session, model, actor="key:k", now=NOW)
    session.commit()
    return made


def stored(session: Session, run: TrainingRun) -> str:
    session.rollback()
    return session.scalars(select(TrainingRun.status).where(TrainingRun.id == run.id)).one()


def test_a_move_without_a_line_is_not_committed(session: Session, run: TrainingRun) -> None:
    machines.runs.move(run, RunStatus.CANCELLED)
    with pytest.raises(machines.UnauditedMove):
        session.commit()
    assert stored(session, run) == RunStatus.QUEUED


def test_moves_of_many_without_a_line_are_not_committed(session: Session, run: TrainingRun) -> None:
    changed = session.execute(machines.runs.update(session, RunStatus.CANCELLED))
    assert changed.rowcount == 1  # type: ignore[attr-defined]
    with pytest.raises(machines.UnauditedMove):
        session.commit()
    assert stored(session, run) == RunStatus.QUEUED


def test_moves_of_many_that_met_none_need_no_line(session: Session, run: TrainingRun) -> None:
    nobodys = machines.runs.update(session, RunStatus.CANCELLED).where(TrainingRun.id == "nobody's")
    assert session.execute(nobodys).rowcount == 0  # type: ignore[attr-defined]
    machines.runs.met_nothing(session)
    session.commit()
    assert stored(session, run) == RunStatus.QUEUED


def test_move_and_line_are_committed_together(session: Session, run: TrainingRun) -> None:
    before = session.scalars(select(AuditEvent.seq)).all()
    machines.runs.move(run, RunStatus.CANCELLED)
    chain.append(
        session,
        actor="key:k",
        action=chain.Action.TRAINING_RUN_CANCELLED,
        subject="training_run:1",
        data={},
    )
    session.commit()
    assert stored(session, run) == RunStatus.CANCELLED
    assert len(session.scalars(select(AuditEvent.seq)).all()) == len(before) + 1
    session.commit()  # the next transaction moves nothing and needs no line


def test_a_savepoint_is_not_the_commit(session: Session, run: TrainingRun) -> None:
    with session.begin_nested():
        machines.runs.move(run, RunStatus.CANCELLED)
    with pytest.raises(machines.UnauditedMove):
        session.commit()


def test_only_allowed_moves_are_made(session: Session, run: TrainingRun) -> None:
    with pytest.raises(IllegalMove):
        machines.runs.move(run, RunStatus.COMPLETED)
    assert run.status == RunStatus.QUEUED
    statement = machines.runs.update(session, RunStatus.COMPLETED).where(TrainingRun.id == run.id)
    assert session.execute(statement).rowcount == 0  # type: ignore[attr-defined]
