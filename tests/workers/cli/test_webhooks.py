"""The commands ``unlearn webhooks``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from service.ledger.database import db
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from workers import cli

URL = "https://93.184.215.14/in"


@pytest.fixture(autouse=True)
def _environment(database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("UNLEARN_DATABASE_URL", url)
    monkeypatch.setenv("UNLEARN_STATE_DIR", str(tmp_path))


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["webhooks", *words])
    assert result.exit_code == code, result.output
    return result


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json").stdout)
    return found


def test_an_operator_adds_changes_and_removes_a_webhook(database: Engine) -> None:
    secret = run("add", URL, "--type", "unlearn.version.promoted").stdout.strip()
    [made] = listed()
    assert (made["url"], made["types"], made["behind"]) == (URL, ["unlearn.version.promoted"], 1)
    assert secret not in json.dumps(made)
    with db.session_factory(database)() as session:
        row = endpoints.get(session, made["id"])
    sealer = Sealer.from_settings(Settings())
    assert sealer.open(row.secret, owner=row.id) == secret
    run("disable", made["id"])
    assert listed()[0]["status"] == "disabled"
    run("test", made["id"], code=1)
    run("enable", made["id"])
    run("test", made["id"])
    run("replay", made["id"], "--after", "0")
    assert listed()[0]["seq"] == 0
    assert run("rotate-secret", made["id"], "--hours", "1").stdout.strip() != secret
    assert URL in run("list").stdout.replace("\n", "")
    assert json.loads(run("deliveries", made["id"], "--json").stdout) == []
    run("remove", made["id"], "--yes")
    assert listed() == []


def test_a_receiver_with_a_public_key_is_shown_that() -> None:
    assert run("add", URL, "--ed25519").stdout.startswith("whpk_")


@pytest.mark.parametrize(
    "words",
    [
        ("add", "https://127.0.0.1/"),
        ("add", "http://93.184.215.14/"),
        ("add", URL, "--type", "everything"),
        ("replay", "wh_1"),
        ("replay", "wh_1", "--after", "1"),
        ("remove", "wh_1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(words: tuple[str, ...]) -> None:
    refused = run(*words, code=1)
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert listed() == []
