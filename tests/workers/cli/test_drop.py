"""``unlearn requests import-drop`` and ``drop-status``, on lists as CalPrivacy publishes them."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from typer.testing import CliRunner, Result

from service.ledger.database import db
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import AuditEvent, DeletionRequest
from service.ledger.requests import outlook
from service.ledger.selection.regulations import Period, Regulation
from tests import factories
from workers import cli
from workers.jobs import drop

#: Published examples: standardised identifier and hash ("Working with the data", version 1.2.0).
VECTORS = {
    "anna.smith@domain.com": "KA18MT/ph6IHYjzT9zwETySDQyvSh87YuoSBpOQtkhE=",
    "4155559317": "vGM7y5n+hBXRSEAklhHDPCbysyNgYTmXdMcagGUOY8E=",
}
EMAIL, PHONE = VECTORS.values()


def hashed(identifier: str) -> str:
    return base64.b64encode(hashlib.sha256(identifier.encode()).digest()).decode()


def item(number: int) -> str:
    return f"A7kP2xQ9{number:04d}"


@pytest.fixture(autouse=True)
def _environment(database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = database.url.render_as_string(hide_password=False)
    monkeypatch.setenv("UNLEARN_DATABASE_URL", url)
    monkeypatch.setenv("UNLEARN_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("UNLEARN_SUBJECT_KEY", factories.DIGESTER.keys[0].decode())
    monkeypatch.setenv("COLUMNS", "300")


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["requests", *words])
    assert result.exit_code == code, result.output
    return result


def write(hashes: list[str], name: str = "20260801_4821_Email.csv") -> str:
    with Path(name).open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["ID", "Hash"])
        table.writerows((item(number), one) for number, one in enumerate(hashes))
    return name


def ingest(database: Engine, *subjects: str) -> None:
    with db.session_factory(database).begin() as session:
        data = factories.dataset(session, rows=len(subjects), subjects=subjects)
        factories.version(session, factories.model(session, data))


def asked(database: Engine) -> list[DeletionRequest]:
    with db.session_factory(database)() as session:
        return list(session.scalars(select(DeletionRequest).order_by(DeletionRequest.id)))


def test_hashes_are_those_that_the_agency_publishes() -> None:
    for identifier, expected in VECTORS.items():
        assert hashed(identifier) == expected


def test_each_hash_becomes_one_request_over_all_datasets(database: Engine) -> None:
    ingest(database, EMAIL, EMAIL, hashed("other"))
    ingest(database, EMAIL)
    said = run("import-drop", write([EMAIL, hashed("nobody")]), "--list", "email").output
    assert "2 hashes: 2 requests recorded, of which 1 match a subject; 0 had one" in said
    known, unknown = asked(database)
    assert (known.status, known.matched) == (RequestStatus.ACCEPTED, 3)
    assert (unknown.status, unknown.matched) == (RequestStatus.NO_MATCH, 0)
    assert known.client_reference == f"drop:{item(0)}"
    assert known.due_at == outlook.due(known.created_at, Period(Regulation.CCPA))


def test_subjects_may_have_been_ingested_under_hexadecimal_hashes(database: Engine) -> None:
    ingest(database, hashlib.sha256(b"anna.smith@domain.com").hexdigest())
    file = write([EMAIL])
    assert "0 match" in run("import-drop", file, "--list", "email", "--dry-run").output
    said = run("import-drop", file, "--list", "email", "--ingested-as", "hex").output
    assert "1 match a subject" in said


def test_a_dry_run_counts_and_records_nothing(database: Engine) -> None:
    ingest(database, EMAIL)
    said = run("import-drop", write([EMAIL, PHONE]), "--list", "email", "--dry-run").output
    assert "2 hashes: 1 match a subject, 1 none; 0 have a request already" in said
    with db.session_factory(database)() as session:
        assert session.scalar(select(func.count()).select_from(DeletionRequest)) == 0
        assert session.scalar(select(func.count()).select_from(AuditEvent)) == 0


def test_an_import_that_is_begun_again_records_nothing_twice(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [hashed(str(number)) for number in range(7)]
    ingest(database, *hashes)
    monkeypatch.setattr(drop, "AT_ONCE", 3)
    run("import-drop", write(hashes[:4], "first.csv"), "--list", "email")
    said = run("import-drop", write(hashes, "whole.csv"), "--list", "email").output
    assert "7 hashes: 3 requests recorded, of which 3 match a subject; 4 had one already" in said
    assert len(asked(database)) == 7
    # The same hash under another work item is the same person.
    other = Path("whole.csv").read_text().replace("A7kP2xQ9", "B7kP2xQ9")
    Path("other.csv").write_text(other)
    assert "7 had one already" in run("import-drop", "other.csv", "--list", "email").output
    assert len(asked(database)) == 7


def test_an_import_that_is_killed_goes_on_where_it_stopped(database: Engine) -> None:
    hashes = [hashed(str(number)) for number in range(9)]
    ingest(database, *hashes)
    file = write(hashes)
    program = (
        "import os, signal\n"
        "from workers import cli\n"
        "from workers.jobs import drop\n"
        "drop.AT_ONCE, known, calls = 2, drop._known, []\n"
        "def die(*given):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return known(*given)\n"
        "drop._known = die\n"
        f"cli.app(['requests', 'import-drop', '{file}', '--list', 'email'])\n"
    )
    path = {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", program], env=os.environ | path)
    assert killed.returncode == -signal.SIGKILL
    assert len(asked(database)) == 4
    assert "5 requests recorded" in run("import-drop", file, "--list", "email").output
    assert len({one.subject_digest for one in asked(database)}) == 9 == len(asked(database))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "even its header is missing"),
        ("Hash,ID\n", "must be ID,Hash"),
        (f"ID,Hash,ListType\n{item(1)},{EMAIL},Email\n", "must be ID,Hash"),
        (f"ID,Hash\n{item(1)},{EMAIL}\n{item(2)},planted\n", "line 3"),
        (f"ID,Hash\n{item(1)},{EMAIL}\nplanted,{EMAIL}\n", "line 3"),
        (f"ID,Hash\n{item(1)},{EMAIL[:-1]}\n", "line 2"),
        (f"ID,Hash\n{item(1)},{EMAIL}\n\n", "line 3 is empty"),
        (f'ID,Hash\n"{item(1)},{EMAIL}\n', "not a CSV file"),
    ],
)
def test_a_file_that_is_no_list_is_refused_whole(database: Engine, content: str, why: str) -> None:
    ingest(database, EMAIL)
    Path("list.csv").write_text(content)
    said = run("import-drop", "list.csv", "--list", "email", code=1).output
    assert why in said
    assert "planted" not in said
    assert EMAIL not in said
    assert asked(database) == []


def test_a_file_of_another_list_is_refused_by_its_name(database: Engine) -> None:
    ingest(database, EMAIL)
    write([EMAIL], "20260801_4821_Phone_part01.csv")
    said = run("import-drop", "20260801_4821_Phone_part01.csv", "--list", "email", code=1).output
    assert "list Phone, not email" in said
    assert asked(database) == []


def test_a_list_without_new_hashes_records_nothing(database: Engine) -> None:
    ingest(database, EMAIL)
    assert "0 hashes: 0 requests" in run("import-drop", write([]), "--list", "email").output


def test_a_full_queue_stops_the_import_and_tells_how_to_go_on(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [hashed(str(number)) for number in range(4)]
    ingest(database, *hashes)
    monkeypatch.setattr(drop, "AT_ONCE", 1)
    monkeypatch.setenv("UNLEARN_MAX_QUEUE", "2")
    said = run("import-drop", write(hashes), "--list", "email", code=1).output
    assert "run this again to go on" in said
    assert len(asked(database)) == 2
    monkeypatch.setenv("UNLEARN_MAX_QUEUE", "9")
    run("import-drop", write(hashes), "--list", "email")
    assert len(asked(database)) == 4


def test_while_a_dataset_is_read_unknown_hashes_are_to_be_asked_again(database: Engine) -> None:
    ingest(database, EMAIL)
    with db.session_factory(database).begin() as session:
        factories.dataset(session, name="new", status=DatasetStatus.INGESTING, ready_at=None)
    said = run("import-drop", write([PHONE]), "--list", "email", code=1).output
    assert "still being read" in said
    assert asked(database) == []


def test_the_answers_for_drop_are_those_whose_requests_are_done(database: Engine) -> None:
    ingest(database, EMAIL, PHONE)
    file = write([EMAIL, PHONE, hashed("nobody")])
    run("import-drop", file, "--list", "email")
    with db.session_factory(database).begin() as session:
        done = session.scalars(select(DeletionRequest).order_by(DeletionRequest.id)).first()
        assert done is not None
        done.status = RequestStatus.COMPLETED  # what workers do is tested where they do it
    write([EMAIL, PHONE, hashed("nobody"), hashed("later")])
    said = run("drop-status", file, "--list", "email", "--out", "answers.csv").output
    assert "2 answers" in said
    assert "1 accepted, 1 not imported" in said
    assert Path("answers.csv").read_text() == f"Id,Status\n{item(0)},3\n{item(2)},5\n"
    again = run("drop-status", file, "--list", "email", "--out", "answers.csv", code=1)
    assert "answers.csv exists" in again.output


def test_every_work_item_of_a_hash_is_answered(database: Engine) -> None:
    """Two people may give the same number, in one list or in a later one."""
    nobody = hashed("nobody")
    ingest(database, EMAIL)
    file = write([EMAIL, nobody, nobody, EMAIL])
    assert "2 hashes: 2 requests" in run("import-drop", file, "--list", "email").output
    later = Path(file).read_text().replace("A7kP2xQ9", "B7kP2xQ9")
    Path("later.csv").write_text(later)
    assert "2 had one already" in run("import-drop", "later.csv", "--list", "email").output
    for listed, first in ((file, "A"), ("later.csv", "B")):
        out = f"{first}.csv"
        said = run("drop-status", listed, "--list", "email", "--out", out).output
        assert "2 answers" in said
        assert "Left out: 2 accepted" in said
        items = [item(number).replace("A", first, 1) for number in (1, 2)]
        assert Path(out).read_text() == "Id,Status\n" + "".join(f"{one},5\n" for one in items)


def test_neither_hashes_nor_subjects_are_in_the_audit_chain(database: Engine) -> None:
    ingest(database, EMAIL)
    run("import-drop", write([EMAIL]), "--list", "email")
    with db.session_factory(database)() as session:
        lines = session.scalars(select(AuditEvent)).all()
    assert [line.action for line in lines] == ["deletion_request:accepted"]
    assert EMAIL not in str([(line.subject, line.data) for line in lines])
