"""How long a command waits, and whom it makes wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from service.settings import Settings
from tests import factories, proxy
from workers import cli

#: It waits for time limits: `make test-faults`.
pytestmark = pytest.mark.slow

#: Commands that somebody waits for, and the table that each of them reads.
INTERACTIVE = [
    (["keys", "list"], "api_keys"),
    (["keys", "revoke", "key_1"], "api_keys"),
    (["datasets", "show", "faces"], "datasets"),
    (["datasets", "delete", "faces", "--yes"], "datasets"),
    (["models", "withdraw", "who", "--yes"], "models"),
    (["runs", "show", "who"], "models"),
    (["versions", "withdraw", "who", "1", "--yes"], "models"),
]


@pytest.mark.postgres
@pytest.mark.parametrize(("command", "table"), INTERACTIVE)
def test_a_command_does_not_wait_for_a_database_that_goes_silent_in_a_statement(
    postgres_database: Engine, tmp_path: Path, command: list[str], table: str
) -> None:
    with proxy.to(postgres_database.url) as network, postgres_database.connect() as holding:
        holding.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        running = _start(
            command,
            network.through(postgres_database.url),
            tmp_path,
            UNLEARN_DATABASE_STATEMENT_SECONDS="4",
            UNLEARN_DATABASE_LOCK_SECONDS="4",
        )
        try:
            _until_somebody_waits(postgres_database)
            network.swallow()
            said, _ = running.communicate(timeout=60)
        finally:
            running.kill()
        assert running.returncode == 1
        assert "the database does not answer" in said


def _until_somebody_waits(database: Engine) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = time.monotonic() + 60
    with database.connect() as connection:
        while not connection.execute(waiting).scalar():
            connection.rollback()
            assert time.monotonic() < deadline


@pytest.mark.postgres
def test_a_command_over_everything_says_how_long_it_waits(
    postgres_database: Engine, tmp_path: Path
) -> None:
    url = postgres_database.url.render_as_string(hide_password=False)
    environment = {"UNLEARN_DATABASE_URL": url, "UNLEARN_STATE_DIR": str(tmp_path)}
    list_file = str(tmp_path / "tombstones.json")
    for command, says in (
        (["restore", "export", list_file], True),
        (["restore", "check", list_file], True),
        (["audit", "check"], True),
        (["keys", "list"], False),
    ):
        done = CliRunner().invoke(cli.app, command, env=environment)
        assert done.exit_code == 0, done.output
        limit = f"up to {Settings(_env_file=None).database_bulk_seconds:g} s"
        assert (limit in done.output) == says


@pytest.mark.parametrize(
    "command",
    [
        ["models", "withdraw", "who"],
        ["versions", "withdraw", "who", "1"],
        ["datasets", "delete", "faces"],
    ],
)
def test_nobody_waits_while_a_command_waits_for_an_answer(
    database: Engine, tmp_path: Path, command: list[str]
) -> None:
    with Session(database) as session:
        data = factories.dataset(session, name="faces", rows=2)
        factories.version(session, factories.model(session, data, name="who"))
        session.commit()
    running = _start(command, database.url.render_as_string(hide_password=False), tmp_path)
    try:
        asked = ""
        while "for good?" not in asked:
            read = running.stdout.read(1) if running.stdout else ""
            assert read, asked
            asked += read
        with database.connect() as connection:
            if database.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            connection.execute(text("UPDATE models SET error = 'seen'"))
            connection.commit()
        running.communicate("n\n", timeout=60)
    finally:
        running.kill()
    assert running.returncode == 1


def _start(command: list[str], url: str, state: Path, **settings: str) -> subprocess.Popen[str]:
    places = {"UNLEARN_DATABASE_URL": url, "UNLEARN_STATE_DIR": str(state)}
    return subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *command],
        env=os.environ | places | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
