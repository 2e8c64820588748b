"""``unlearn runs``: a run and its curve in a terminal."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from service.ledger.database import db
from service.ledger.database.tables import TrainingRun
from service.ledger.training import runs
from tests import factories
from workers import cli
from workers.cli import runs as commands

CURVE = {
    "training_rows": 3,
    "validation_rows": 3,
    "epochs": [[2.5, 2.25, 0.5, 0.1], [1.125, 2.0, 0.75, None]],
}


def _run(database: Engine, *arguments: str) -> Result:
    url = database.url.render_as_string()
    command = ["runs", "show", "reader", *arguments]
    return CliRunner().invoke(cli.app, command, env={"UNLEARN_DATABASE_URL": url, "COLUMNS": "120"})


def _begun(database: Engine) -> str:
    """A run that trains and has reached two epochs; its id."""
    with db.session_factory(database).begin() as session:
        model = factories.model(session, factories.dataset(session), name="reader")
        run = runs.create(session, model, actor="key:k", now=factories.NOW)
        runs.start(session, run, data_revision=0, actor="worker:w", now=factories.NOW)
        runs.progress(session, run.id, {"fraction": 0.5, "epoch": 2, "epochs": 4})
        runs.draw(session, run.id, CURVE)
        return run.id


def test_run_is_shown_with_its_curve(sqlite_database: Engine) -> None:
    run_id = _begun(sqlite_database)
    for arguments in ([], ["--run", run_id]):
        shown = _run(sqlite_database, *arguments)
        assert shown.exit_code == 0, shown.output
        assert f"{run_id}: running, epoch 2/4, loss 1.125, validation loss 2, accuracy 75.0%" in (
            shown.output
        )
        cells = [
            [cell.strip() for cell in row.split("│")[1:-1]] for row in shown.output.split("\n")
        ]
        assert ["1", "2.5", "2.25", "50.00%", "0.1"] in cells
        assert ["2", "1.125", "2", "75.00%", ""] in cells


def test_run_that_failed_is_told_with_its_error(sqlite_database: Engine) -> None:
    run_id = _begun(sqlite_database)
    with db.session_factory(sqlite_database).begin() as session:
        run = session.get_one(TrainingRun, run_id)
        runs.fail(session, run, error="the loss became NaN", actor="worker:w", now=factories.NOW)
    shown = _run(sqlite_database, "--follow")
    assert shown.exit_code == 1
    assert "failed" in shown.output
    assert "the loss became NaN" in shown.output


def test_followed_run_is_waited_for(
    sqlite_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _begun(sqlite_database)
    pauses = []

    def end(seconds: float) -> None:
        """End the run while the command pauses between two looks."""
        pauses.append(seconds)
        with db.session_factory(sqlite_database).begin() as session:
            run = session.get_one(TrainingRun, run_id)
            model = session.get_one(factories.Model, run.model_id)
            version = factories.version(session, model, training_run_id=run_id)
            runs.complete(session, run, version, actor="worker:w", now=factories.NOW)

    monkeypatch.setattr(commands.time, "sleep", end)
    shown = _run(sqlite_database, "--follow")
    assert pauses == [commands.LOOK_SECONDS]
    assert shown.exit_code == 0, shown.output
    assert f"{run_id}: completed" in shown.output


def test_model_that_was_never_trained_says_how_to(sqlite_database: Engine) -> None:
    with db.session_factory(sqlite_database).begin() as session:
        factories.model(session, factories.dataset(session), name="reader")
    shown = _run(sqlite_database)
    assert shown.exit_code == 1
    assert "POST /v1/models/reader/training-runs" in shown.output
