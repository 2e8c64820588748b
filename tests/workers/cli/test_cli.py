"""The command line, as an operator types it."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import URL, Engine, text
from typer.testing import CliRunner, Result

from service.ledger.database import db, schema
from tests.conftest import BOTH
from workers import cli

#: Every command that opens the ledger, with arguments that it would accept.
ON_THE_LEDGER: Mapping[str, list[str]] = {
    "datasets add": ["digits", "pyproject.toml"],
    "datasets append": ["digits", "pyproject.toml"],
    "datasets list": [],
    "datasets show": ["digits"],
    "datasets delete": ["digits", "--yes"],
    "encoders add": [".", "--name", "small", "--statement", "none"],
    "encoders list": [],
    "encoders delete": ["small"],
    "tokenizers list": [],
    "tokenizers delete": ["0" * 64],
    "registry list": [],
    "models list": [],
    "models show": ["reader"],
    "models policy": ["reader"],
    "models withdraw": ["reader", "--yes"],
    "versions list": ["reader"],
    "versions show": ["reader", "1"],
    "versions approve": ["reader", "1"],
    "versions withdraw": ["reader", "1", "--yes"],
    "runs list": ["reader"],
    "runs show": ["reader"],
    "runs cancel": ["reader", "run_1"],
    "requests list": [],
    "requests show": ["dr_1"],
    "requests events": ["dr_1"],
    "requests cancel": ["dr_1"],
    "requests retry": ["dr_1"],
    "requests approve": ["dr_1"],
    "requests deny": ["dr_1"],
    "requests extend": ["dr_1", "--code", "complexity", "--reason", "much"],
    "requests hold": ["dr_1", "--code", "legal_claims", "--reason", "case 17"],
    "requests release-hold": ["dr_1", "--reason", "closed"],
    "requests holds": [],
    "requests import-drop": ["list.csv", "--list", "email"],
    "requests drop-status": ["list.csv", "--list", "email", "--out", "answers.csv"],
    "keys create": ["me"],
    "keys list": [],
    "keys revoke": ["key_1"],
    "audit events": [],
    "audit check": [],
    "audit certificates": [],
    "restore export": ["tombstones.json"],
    "restore check": ["tombstones.json"],
    "suppressions readmit": [],
    "webhooks add": ["https://93.184.215.14/"],
    "webhooks list": [],
    "webhooks deliveries": ["wh_1"],
    "webhooks enable": ["wh_1"],
    "webhooks disable": ["wh_1"],
    "webhooks rotate-secret": ["wh_1"],
    "webhooks replay": ["wh_1", "--after", "0"],
    "webhooks test": ["wh_1"],
    "webhooks remove": ["wh_1", "--yes"],
    "worker-health": [],
}

#: Those that make the database where there is none.
MAKING_ONE: Mapping[str, list[str]] = {"migrate": [], "serve": ["--port", "0"]}

#: Those that read files, or talk to a service, and open no database.
WITHOUT_ONE = {"audit verify", "compute-node", "demo", "receipts verify"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to type commands in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    digest = base64.b64encode(hashlib.sha256(b"anna@example.org").digest()).decode()
    (tmp_path / "list.csv").write_text(f"ID,Hash\nA1B2C3D4E5F6,{digest}\n")
    return tmp_path


def test_every_command_is_tried_here() -> None:
    known = {*ON_THE_LEDGER, *MAKING_ONE, *WITHOUT_ONE}
    assert set(_commands(typer.main.get_command(cli.app))) == known


@pytest.mark.parametrize("command", ON_THE_LEDGER)
def test_without_a_state_directory_a_command_says_how_to_make_one(
    command: str, folder: Path
) -> None:
    line = _one_line(_type(command, UNLEARN_STATE_DIR=str(folder / "none")))
    assert "unlearn migrate" in line
    assert str(folder / "none" / "ledger.db") in line.replace("\n", "")
    assert not (folder / "none").exists()


@pytest.fixture(scope="module", params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database without tables, once of each kind; no command here makes one."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("empty") / "ledger.db"
        path.touch()
        return f"sqlite:///{path}"
    url: URL = request.getfixturevalue("empty_postgres_url")
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize("command", ON_THE_LEDGER)
def test_on_an_empty_database_a_command_says_how_to_make_its_tables(
    command: str, folder: Path, empty_url: str
) -> None:
    line = _one_line(_type(command, UNLEARN_DATABASE_URL=empty_url))
    assert "no tables yet" in line
    assert "unlearn migrate" in line


@pytest.mark.parametrize(
    ("revision", "words"), [("9999", "newer version"), ("", "unlearn migrate")]
)
def test_a_database_of_another_version_is_named(
    revision: str, words: str, folder: Path, sqlite_database: Engine
) -> None:
    with sqlite_database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})
        if not revision:
            connection.execute(text("DELETE FROM alembic_version"))
    url = sqlite_database.url.render_as_string()
    assert words in _one_line(_type("keys list", UNLEARN_DATABASE_URL=url))


@pytest.mark.parametrize("command", [*ON_THE_LEDGER, *MAKING_ONE])
def test_a_database_that_refuses_connections_is_told_in_one_line(
    command: str, folder: Path
) -> None:
    line = _one_line(
        _type(command, UNLEARN_DATABASE_URL="postgresql://u:secretpassword@127.0.0.1:1/unlearn")
    )
    assert "the database does not answer" in line
    assert "run this again" in line
    assert "secretpassword" not in line


@pytest.mark.parametrize("command", ["keys list", "migrate", "worker-health"])
def test_a_database_that_takes_a_connection_and_says_nothing_is_not_waited_for(
    command: str, folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        line = _one_line(_type(command, UNLEARN_DATABASE_URL=f"postgresql://127.0.0.1:{port}/x"))
    assert "the database does not answer" in line


@pytest.mark.parametrize("command", [*ON_THE_LEDGER, *MAKING_ONE])
def test_a_file_that_is_no_database_is_told_in_one_line(command: str, folder: Path) -> None:
    (folder / "ledger.db").write_bytes(b"this is a letter and no database" * 100)
    line = _one_line(_type(command, UNLEARN_STATE_DIR=str(folder)))
    assert "the database cannot be used" in line


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("UNLEARN_DATABASE_URL", "nonsense", "UNLEARN_DATABASE_URL"),
        ("UNLEARN_DATABASE_URL", "oracle://there/x", "UNLEARN_DATABASE_URL"),
        ("UNLEARN_SIGNING_KEY", "short", "UNLEARN_SIGNING_KEY"),
        ("UNLEARN_MODE", "production", "UNLEARN_SUBJECT_KEY"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    name: str, value: str, named: str, folder: Path
) -> None:
    assert named in _one_line(_type("keys list", **{name: value}))


@pytest.mark.parametrize("command", [*ON_THE_LEDGER, *MAKING_ONE])
def test_every_command_names_a_wrong_setting_in_one_line(command: str, folder: Path) -> None:
    assert "UNLEARN_LEASE_SECONDS" in _one_line(_type(command, UNLEARN_LEASE_SECONDS="soon"))


def test_a_directory_that_cannot_be_made_is_told_in_one_line(folder: Path) -> None:
    (folder / "file").touch()
    assert "file" in _one_line(_type("migrate", UNLEARN_STATE_DIR=str(folder / "file" / "state")))


def test_a_missing_file_is_named_before_anything_is_recorded(
    folder: Path, sqlite_database: Engine
) -> None:
    url = sqlite_database.url.render_as_string()
    missing = ["datasets", "add", "digits", "nothing.csv"]
    assert "nothing.csv" in _one_line(_run(missing, UNLEARN_DATABASE_URL=url))
    with sqlite_database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM datasets")).scalar_one() == 0


@pytest.mark.parametrize(("length", "words"), [(64, "no file or folder"), (65, "dataset name")])
def test_a_dataset_may_have_the_names_that_it_may_have_over_http(
    length: int, words: str, folder: Path
) -> None:
    assert words in _one_line(_run(["datasets", "add", "a" * length, "nothing.csv"]))


def test_commands_work_once_the_database_is_there(folder: Path) -> None:
    state = {"UNLEARN_STATE_DIR": str(folder / "state")}
    for command in (["migrate"], ["keys", "create", "me"], ["keys", "list"], ["audit", "check"]):
        result = _run(command, **state)
        assert result.exit_code == 0, result.output
    with db.session_factory(db.engine(f"sqlite:///{folder}/state/ledger.db"))() as session:
        assert schema.is_current(session)


def test_a_demo_elsewhere_without_a_key_is_refused_at_once() -> None:
    result = CliRunner().invoke(cli.app, ["demo", "--url", "http://127.0.0.1:9", "--api-key", ""])
    assert result.exit_code == 1
    assert "--api-key" in result.output


def test_machine_beyond_those_that_compute_together_is_refused(folder: Path) -> None:
    nodes = {"UNLEARN_COMPUTE_NODES": "2", "UNLEARN_COMPUTE_ENDPOINT": "127.0.0.1:29500"}
    assert "the last machine's number is 1" in _one_line(_run(["compute-node", "2"], **nodes))
    assert "the last machine's number is 0" in _one_line(_run(["compute-node", "1"]))


def _type(command: str, **environment: str) -> Result:
    arguments = {**ON_THE_LEDGER, **MAKING_ONE}[command]
    return _run([*command.split(), *arguments], **environment)


def _run(arguments: list[str], **environment: str) -> Result:
    return CliRunner().invoke(cli.app, arguments, env=environment)


def _one_line(result: Result) -> str:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1, result.output
    return result.output


def _commands(group: Any, *path: str) -> Iterator[str]:
    members = getattr(group, "commands", None)
    if members is None:
        yield " ".join(path)
        return
    for name, command in members.items():
        yield from _commands(command, *path, name)
