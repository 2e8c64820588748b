"""``unlearn``'s nouns: lists and decisions, as JSON and in tables whose ids are never cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import RegistryCopy
from service.ledger.registry.policy import Policy
from tests import factories
from tests.service import announcements
from workers import cli

LISTS = (
    ["requests", "list"],
    ["requests", "holds"],
    ["datasets", "list"],
    ["models", "list"],
    ["versions", "list", "who"],
    ["runs", "list", "who"],
    ["keys", "list"],
    ["webhooks", "list"],
    ["registry", "list"],
    ["audit", "events"],
)


@pytest.fixture
def request_id(sqlite_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An open request about ``faces``, on which ``who`` is trained; and the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_DATABASE_URL", sqlite_database.url.render_as_string())
    monkeypatch.setenv("UNLEARN_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    with db.session_factory(sqlite_database).begin() as session:
        announcements.announce(session)
        data = factories.dataset(session, name="faces", rows=30)
        policy = Policy().model_dump(mode="json")
        model = factories.model(session, data, name="who", policy=policy)
        live = factories.version(session, model)
        session.add(RegistryCopy(version_id=live.id, number="7", begun_at=db.now()))
        factories.training_run(session, model)
        waiting = factories.request(
            session, data, rows=[3], created_at=db.now(), due_at=_in_a_month()
        )
        factories.erasure(session, waiting, model)
        return waiting.id


def _in_a_month() -> Any:
    from service.ledger.selection.regulations import Period, Regulation

    return Period(Regulation.GDPR).due(db.now(), extensions=0)


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == code, result.output
    return result


def said(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_every_list_is_json_and_a_table(request_id: str, words: list[str]) -> None:
    run("keys", "create", "me")
    found = said(*words)
    assert isinstance(found, list)
    shown = run(*words).stdout
    for one in found:
        assert str(one.get("id") or one.get("name") or one.get("number") or one["seq"]) in shown


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["requests", "show", "{id}"], "id"),
        (["datasets", "show", "faces"], "name"),
        (["models", "show", "who"], "name"),
        (["models", "policy", "who"], "method"),
        (["versions", "show", "who", "1"], "number"),
        (["runs", "show", "who"], "id"),
    ],
)
def test_one_thing_is_shown_as_json_and_in_lines(
    request_id: str, words: list[str], name: str
) -> None:
    words = [word.format(id=request_id) for word in words]
    found = said(*words)
    assert found[name]
    assert str(found[name]) in run(*words).stdout


def test_ids_are_whole_in_a_terminal_of_forty_columns(request_id: str) -> None:
    for words in (["requests", "list"], ["requests", "show", request_id]):
        assert request_id in run(*words).stdout


def test_a_request_is_held_listed_and_released(request_id: str) -> None:
    placed = run("requests", "hold", request_id, "--code", "legal_claims", "--reason", "case 17")
    assert f"{request_id} is accepted, under a legal hold." in placed.output
    [held] = said("requests", "holds")
    assert (held["request"], held["reason_code"], held["placed_by"]) == (
        request_id,
        "legal_claims",
        "cli",
    )
    assert held["id"] in run("requests", "holds").stdout
    again = run(
        "requests", "hold", request_id, "--code", "legal_claims", "--reason", "again", code=1
    )
    assert "under a legal hold already" in again.output.replace("\n", " ")
    run("requests", "release-hold", request_id, "--reason", "closed")
    assert said("requests", "holds") == []
    [released] = said("requests", "holds", "--all")
    assert released["release_reason"] == "closed"


def test_a_due_date_is_extended(request_id: str) -> None:
    before = said("requests", "show", request_id)
    words = ["requests", "extend", request_id, "--code", "complexity", "--reason", "many sources"]
    run(*words)
    after = said("requests", "show", request_id)
    assert after["due_at"] > before["due_at"]
    assert (after["extensions"], after["extension_reason"]) == (1, "many sources")
    run(*words)
    assert "extensions of its period in all" in run(*words, code=1).output.replace("\n", " ")


def test_decisions_move_a_request(request_id: str, sqlite_database: Engine) -> None:
    with db.session_factory(sqlite_database).begin() as session:
        data = factories.dataset(session, name="others", rows=5)
        large = factories.request(session, data, status=RequestStatus.AWAITING_APPROVAL).id
        larger = factories.request(session, data, status=RequestStatus.AWAITING_APPROVAL).id
    run("requests", "approve", large)
    assert said("requests", "show", large)["status"] != "awaiting_approval"
    run("requests", "deny", larger, "--code", "duplicate")
    assert said("requests", "show", larger)["denial_code"] == "duplicate"
    run("requests", "cancel", request_id)
    assert [one["id"] for one in said("requests", "list", "--status", "cancelled")] == [request_id]
    actions = [one["action"] for one in said("requests", "events", request_id)]
    assert actions[-1] == "deletion_request:cancelled"
    run("requests", "cancel", request_id)
    assert [one["action"] for one in said("requests", "events", request_id)] == actions
    assert "this request is cancelled" in run("requests", "approve", request_id, code=1).output


def test_all_that_fit_are_decided_about_once_their_number_is_confirmed(
    request_id: str, sqlite_database: Engine
) -> None:
    waiting = RequestStatus.AWAITING_APPROVAL
    with db.session_factory(sqlite_database).begin() as session:
        data = factories.dataset(session, name="others", rows=5)
        large = [factories.request(session, data, status=waiting).id for _ in range(3)]
        broken = factories.request(session, data, status=RequestStatus.NEEDS_REVIEW).id
    every = ("requests", "approve", "--all", "--dataset", "others")
    assert "3 requests fit, not 2" in run(*every, "--expect", "2", code=1).output
    asked = CliRunner().invoke(cli.app, [*every], input="n\n")
    assert "Approve 3 requests?" in asked.output
    assert asked.exit_code == 1
    assert {said("requests", "show", one)["status"] for one in large} == {waiting}
    hold = ("--code", "legal_claims", "--reason", "docket 4711")
    run("requests", "hold", large[1], *hold)
    told = run(*every, "--expect", "3", code=1).output
    assert "2 of 3 requests; 1 left as they are." in told
    assert f"{large[1]} was left as it is" in told
    assert [said("requests", "show", one)["status"] for one in large] == [
        "accepted",
        "awaiting_approval",
        "accepted",
    ]
    run("requests", "release-hold", large[1], "--reason", "closed")
    run("requests", "deny", "--all", "--code", "duplicate", "--expect", "1")
    assert said("requests", "show", large[1])["denial_code"] == "duplicate"
    run("requests", "retry", "--all", "--older-than-days", "0", "--expect", "1")
    assert said("requests", "show", broken)["status"] == "processing"


def test_an_undo_window_is_set(request_id: str) -> None:
    run("models", "policy", "who", "--undo-window", "36h", "--set", "max_records=64")
    policy = said("models", "policy", "who")
    assert (policy["hold_seconds"], policy["max_records"]) == (36 * 3600, 64)
    assert said("models", "show", "who")["policy"]["hold_seconds"] == 36 * 3600
    run("models", "policy", "who", "--undo-window", "0")
    assert said("models", "policy", "who")["hold_seconds"] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["models", "policy", "who", "--undo-window", "soon"], "write for example 90s"),
        (["models", "policy", "who", "--undo-window", "900d"], "hold_seconds"),
        (["models", "policy", "who", "--set", "max_records"], "is not FIELD=VALUE"),
        (["models", "policy", "who", "--set", "colour=1"], "colour"),
        (["models", "show", "nobody"], "model"),
        (["requests", "show", "dr_1"], "no deletion request has this id"),
        (["audit", "events", "--action", "nothing"], "there is no action nothing"),
        (["runs", "cancel", "who", "run_1"], "run"),
        (["requests", "approve"], "name one request, or give --all"),
        (["requests", "retry", "dr_1", "--all"], "name one request, or give --all"),
        (["requests", "deny", "dr_1", "--dataset", "x"], "need --all"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(
    request_id: str, words: list[str], told: str
) -> None:
    refused = run(*words, code=1)
    assert told in refused.output
    assert "Traceback" not in refused.output


def test_a_new_key_is_told_as_json(request_id: str) -> None:
    made = said("keys", "create", "crm", "--scope", "requests:read")
    assert made["scopes"] == ["requests:read"]
    [listed] = said("keys", "list")
    assert listed["id"] == made["id"]
    assert "secret" not in listed
    run("keys", "revoke", made["id"])
    assert said("keys", "list")[0]["revoked_at"]


def test_the_version_is_told() -> None:
    assert run("--version").stdout.strip() == metadata.version("unlearn")


@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        ("bash", {"COMP_WORDS": "unlearn requests rel", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "unlearn requests rel"}),
        (
            "fish",
            {
                "_TYPER_COMPLETE_ARGS": "unlearn requests rel",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            },
        ),
    ],
)
def test_shells_complete_commands(shell: str, typed: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("unlearn")],
        cwd=tmp_path,
        env={**os.environ, "_UNLEARN_COMPLETE": f"complete_{shell}", **typed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "release-hold" in done.stdout
