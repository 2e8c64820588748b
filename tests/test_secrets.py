"""Nothing that identifies a person, and no secret, leaves its place during a whole run.

Real processes (API, worker with its compute processes, beat) work on a file in which every value is
planted; then all that they wrote and answered, and every trace that they sent, is searched.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.ledger.database import db, schema
from service.ledger.registry import keys
from service.main import create_app
from service.settings import Settings
from tests.collector import collecting
from tests.workers.receiver import Receiver
from workers.demo.client import Client
from workers.demo.run import free_port
from workers.embedded import serve

pytestmark = pytest.mark.slow

SUBJECT_KEY = "planted-subject-key-0123456789abcdef"
SIGNING_KEY = base64.b64encode(b"planted-signing-key-0123456789ab").decode()

CELERY_STOPS = r"worker: \w+ shutdown \(MainProcess\)"

CLASSES, ROWS, FEATURES = 3, 240, 4


def subject(row: int) -> str:
    return f"heloise.planted.{row // 4}@example.org"


def record(row: int) -> str:
    return f"planted-record-{row:04d}"


@dataclass
class Run:
    """What a whole run left behind."""

    home: Path
    settings: Settings
    secret: str
    values: list[str]
    messages: str = ""
    bodies: dict[str, str] = field(default_factory=dict)
    traces: list[bytes] = field(default_factory=list)
    version: int = 0

    @property
    def logs(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in (self.home / "logs").iterdir()}

    def planted(self) -> list[str]:
        """Words that may stand in the source file only; record ids in the ledger, too."""
        return [
            "heloise.planted",
            "planted-record",
            "unknown.planted",
            "UNREADABLE-PLANTED",
            self.secret,
            self.secret.rsplit("_", 1)[1],
            SUBJECT_KEY,
            SIGNING_KEY,
            base64.b64decode(SIGNING_KEY).decode(),
            *self.values,
        ]

    def found(self, text: str) -> list[str]:
        return [word for word in self.planted() if word in text]


def write_people(path: Path) -> list[str]:
    """A table of which a small network can learn something; its most telling values."""
    draw = random.Random(1)
    lines = ["name,person,kind,f0,f1,f2,f3"]
    values = []
    for row in range(ROWS):
        label = row % CLASSES
        features = [f"{draw.gauss(label * (one + 1), 1.0):.9f}" for one in range(FEATURES)]
        values += features
        lines.append(",".join([record(row), subject(row), str(label), *features]))
    path.write_text("\n".join(lines) + "\n")
    return values


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    """A receiver of traces."""
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Run:
    home = tmp_path_factory.mktemp("run")
    settings = Settings(
        _env_file=None,
        mode="production",
        state_dir=home / "state",
        subject_key=SecretStr(SUBJECT_KEY),
        signing_key=SecretStr(SIGNING_KEY),
        threads=1,
        device="cpu",
        poll_seconds=0.2,
        max_attempts=1,
        # It has all that a line for people has, and more.
        log_format="json",
    )
    settings.sources.mkdir(parents=True)
    values = write_people(settings.sources / "people.csv")
    (settings.sources / "broken.csv").write_text("f0,label\n1.0,1\nUNREADABLE-PLANTED,0\n")
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    with db.session_factory(engine)() as session:
        _, secret = keys.create(
            session, "tests", scopes=["admin"], expires_at=None, actor="cli", now=db.now()
        )
        session.commit()
    engine.dispose()
    run = Run(home, settings, secret, values)
    ask_before_any_worker_runs(run)
    with served(run) as client:
        walk(run, client)
    run.traces = [one.body for one in collector.received]
    return run


def ask_before_any_worker_runs(run: Run) -> None:
    """The messages to the workers stay where they are, to be read."""
    with TestClient(create_app(run.settings)) as client:
        client.headers["Authorization"] = f"Bearer {run.secret}"
        columns = {"record_id": "name", "subject_id": "person", "label": "kind"}
        for name, chosen in (("people", columns), ("broken", {})):
            answer = client.post(
                "/v1/datasets",
                json={"name": name, "source": {"path": f"{name}.csv"}, "columns": chosen},
            )
            assert answer.status_code == 202, answer.text
    files = list((run.settings.state_dir / "broker" / "messages").iterdir())
    for file in files:
        message = file.read_text()
        body = json.loads(message)["body"]
        run.messages += message + base64.b64decode(body).decode()
    assert "run_background" in run.messages


class served:  # noqa: N801  # a context manager, read like the function it is
    """The embedded form over a run's state, its output in files."""

    def __init__(self, run: Run) -> None:
        port = free_port()
        self._supervisor = serve.Supervisor(
            serve.programs(run.settings, host="127.0.0.1", port=port, processes=1),
            environment=serve.environment(run.settings),
            logs=run.home / "logs",
        )
        self._thread = threading.Thread(target=self._supervisor.watch)
        self._client = Client(f"http://127.0.0.1:{port}", run.secret)
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Client:
        self._supervisor.start()
        self._thread.start()
        self._client.wait_until_up(timeout_seconds=60, alive=self._thread.is_alive)
        self._client.url = self.url
        return self._client

    def __exit__(self, *_error: object) -> None:
        self._supervisor.ask_to_stop()
        self._thread.join(60)


def walk(run: Run, client: Client) -> None:
    """The main job, and every kind of refusal with a planted value in it."""
    client.wait_for(
        "/v1/datasets/people", lambda seen: seen["status"] == "ready", timeout_seconds=60
    )
    client.post(
        "/v1/models",
        {
            "name": "kinds",
            "dataset": "people",
            "architecture": {
                "name": "mlp",
                "parameters": {"inputs": FEATURES, "hidden": [8], "classes": CLASSES},
            },
            "recipe": {"epochs": 3},
            "policy": {
                "max_wait_seconds": 0,
                "purge_after_seconds": 0,
                "margins": {"splits": 0},
            },
        },
    )
    client.wait_for(
        "/v1/models/kinds", lambda seen: seen["status"] != "preparing", timeout_seconds=60
    )
    client.post("/v1/models/kinds/training-runs", {"seed": 1})
    client.wait_for("/v1/models/kinds", lambda seen: seen["production"] == 1, timeout_seconds=60)
    asked = [
        client.post("/v1/deletion-requests", {"dataset": "people", **what})["id"]
        for what in (
            {"subject_id": subject(0)},
            {"record_ids": [record(9), record(10)]},
            {"subject_id": "unknown.planted@example.org"},
        )
    ]
    for one in asked:
        client.wait_for(
            f"/v1/deletion-requests/{one}",
            lambda seen: seen["status"] in ("completed", "no_match"),
            timeout_seconds=90,
        )
    run.version = client.get("/v1/models/kinds")["production"]
    refused(run, client)
    for path in (
        "/v1/datasets/broken",
        "/v1/datasets/people",
        *(f"/v1/deletion-requests/{one}" for one in asked),
        "/v1/deletion-requests",
        f"/v1/models/kinds/versions/{run.version}",
        f"/v1/models/kinds/versions/{run.version}/audit",
        "/v1/models/kinds/batches",
        "/v1/audit/events?limit=200",
        "/openapi.json",
    ):
        run.bodies[path] = json.dumps(client.get(path))


def refused(run: Run, client: Client) -> None:
    """Collect the bodies of answers to what must be refused."""
    with httpx.Client(base_url=client.url, headers={"Authorization": f"Bearer {run.secret}"}) as c:
        planted = subject(1)
        bodies: dict[str, object] = {
            "two kinds": {"dataset": "people", "subject_id": planted, "record_ids": [record(1)]},
            "wrong type": {"dataset": "people", "subject_id": {"name": planted}},
            "too long": {"dataset": "people", "subject_id": planted * 100},
            "unknown field": {"dataset": "people", "subject": planted},
            "unknown name": {"dataset": "people", "subject_id": planted, planted: 1},
            "wrong list": {"dataset": "people", "record_ids": record(1)},
            "no dataset": {"dataset": "nobody", "subject_id": planted},
            "odd dataset": {"dataset": planted, "subject_id": planted},
        }
        for what, body in bodies.items():
            answer = c.post("/v1/deletion-requests", json=body)
            assert answer.is_client_error, (what, answer.text)
            run.bodies[what] = answer.text
        half = b'{"dataset": "people", "subject_id": "' + planted.encode()
        answer = c.post(
            "/v1/deletion-requests", content=half, headers={"Content-Type": "application/json"}
        )
        assert answer.is_client_error
        run.bodies["not JSON"] = answer.text
        for subject_id in (planted, subject(8)):
            answer = c.post(
                "/v1/deletion-requests",
                json={"dataset": "people", "subject_id": subject_id},
                headers={"Idempotency-Key": "once"},
            )
        assert answer.is_client_error
        run.bodies["other body under one key"] = answer.text
        answer = c.get("/v1/datasets", headers={"Authorization": f"Bearer {run.secret}x"})
        assert answer.status_code == 401
        run.bodies["wrong key"] = answer.text
        told = {"X-Request-Id": planted, "traceparent": planted, "baggage": f"who={planted}"}
        answer = c.get("/v1/deletion-requests/planted", headers=told)
        assert answer.is_client_error
        run.bodies["person in headers"] = answer.text + str(answer.headers)
        answer = c.get(f"/v1/deletion-requests/{run.secret}")
        assert answer.is_client_error
        run.bodies["secret in the path"] = answer.text


def test_run_did_what_it_should(ran: Run) -> None:
    """Otherwise the searches below would find nothing because nothing happened."""
    assert ran.version >= 2
    assert {"api.log", "worker-1.log", "beat.log"} <= set(ran.logs)
    assert "deletion-requests" in ran.logs["api.log"]
    assert "batch" in ran.logs["worker-1.log"]
    source = (ran.settings.sources / "people.csv").read_text()
    assert len(ran.found(source)) >= ROWS * FEATURES


def test_logs_hold_no_identity_no_value_and_no_secret(ran: Run) -> None:
    searched = {name: ran.found(text) for name, text in ran.logs.items()}
    # The one exception: a client that puts a secret into a path has written it into a URL itself.
    searched["api.log"] = ran.found(
        "\n".join(
            line
            for line in ran.logs["api.log"].splitlines()
            if f"/v1/deletion-requests/{ran.secret}" not in line
        )
    )
    assert not any(searched.values()), searched


def test_every_line_is_an_object_and_every_change_names_what_changed(ran: Run) -> None:
    changes: dict[str, list[dict[str, object]]] = {}
    for name, text in ran.logs.items():
        # Celery greets, and warns a process that runs as root, before it sets up its log; that it
        # was asked to stop it prints, too.
        lines = itertools.dropwhile(lambda line: not line.startswith("{"), text.splitlines())
        told = [json.loads(line) for line in lines if line and not re.fullmatch(CELERY_STOPS, line)]
        changes[name] = [line for line in told if line["logger"] == "service.changes"]
    asked = [one for one in changes["api.log"] if one["action"] == "deletion_request:accepted"]
    worker = changes["worker-1.log"]
    claimed = [one for one in worker if one["action"] == "batch:claimed"]
    done = [one for one in worker if one["action"] == "batch:completed"]
    assert len(asked) == 2
    assert all(len(str(one["request_id"])) == 32 for one in asked)
    # The batch continues the trace of the call that asked for it.
    assert done
    assert {one["trace_id"] for one in done} <= {one["trace_id"] for one in asked}
    assert {one["batch"] for one in done} == {one["batch"] for one in claimed}
    assert {one["model"] for one in claimed} == {"kinds"}


def test_traces_hold_no_identity_no_value_and_no_secret(ran: Run) -> None:
    sent = b"".join(ran.traces)
    assert b"/v1/deletion-requests" in sent
    assert b"compute unlearn" in sent
    assert [word for word in ran.planted() if word.encode() in sent] == []


def test_answers_hold_no_identity_no_value_and_no_secret(ran: Run) -> None:
    searched = {name: ran.found(text) for name, text in ran.bodies.items()}
    assert not any(searched.values()), searched


def test_messages_to_the_workers_say_nothing(ran: Run) -> None:
    assert ran.found(ran.messages) == []


def test_audit_chain_holds_no_identity_no_value_and_no_secret(ran: Run) -> None:
    with closing(sqlite3.connect(ran.settings.state_dir / "ledger.db")) as database:
        lines = database.execute("SELECT * FROM audit_events").fetchall()
    assert len(lines) > 10
    assert ran.found(repr(lines)) == []


def test_database_holds_no_subject_no_value_and_no_secret(ran: Run) -> None:
    with closing(sqlite3.connect(ran.settings.state_dir / "ledger.db")) as database:
        dump = "\n".join(database.iterdump())
    assert record(0) in dump  # records are known by their ids, and by nothing else
    assert [word for word in ran.found(dump) if word != "planted-record"] == []


def test_no_file_is_named_after_a_person_or_a_secret(ran: Run) -> None:
    names = "\n".join(str(file.relative_to(ran.home)) for file in ran.home.rglob("*"))
    assert "store" in names
    assert ran.found(names) == []


def test_files_of_the_store_hold_no_identity_and_no_forgotten_value(ran: Run) -> None:
    store = ran.settings.store
    content = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    for word in ("heloise.planted", "planted-record", "unknown.planted", SUBJECT_KEY):
        assert not [file for file, held in content.items() if word.encode() in held]
    forgotten = ran.values[: 4 * FEATURES]  # the first subject's four records
    kept = ran.values[4 * FEATURES : 8 * FEATURES]
    rows = next(held for file, held in content.items() if file.name == "rows.npy")
    assert all(struct.pack("<f", float(value)) in rows for value in kept)
    assert not any(
        struct.pack("<f", float(value)) in held for value in forgotten for held in [rows]
    )
