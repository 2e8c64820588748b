"""The whole way over HTTP, each step of it computed by two processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import Client
from service.ledger.database import db
from service.ledger.registry import keys
from service.settings import Settings
from tests.workers.embedded.test_serve_killed import DEADLINE_SECONDS, Instance, until
from tests.workers.place import SMALL
from workers.demo import digits

#: It computes in real processes: `make test-faults`.
pytestmark = pytest.mark.slow

PERSON = "writer-3"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    monkeypatch.setenv("UNLEARN_COMPUTE_PROCESSES", "2")
    monkeypatch.setenv("UNLEARN_POLL_SECONDS", "0.2")
    made = Instance(tmp_path, tmp_path / "serve.log")
    yield made
    if made.process.poll() is None:
        made.kill()


def test_person_is_forgotten_by_steps_of_two_processes_of_which_none_is_left(
    instance: Instance, tmp_path: Path
) -> None:
    until(instance.ready, instance.said)
    home = tmp_path / "state"
    client = Client(f"http://127.0.0.1:{instance.port}", _key(home))
    (home / "data").mkdir()
    digits.load().write(home / "data" / digits.FILE)
    client.datasets.create(name="digits", source={"path": digits.FILE})
    client.datasets.wait("digits", timeout_seconds=DEADLINE_SECONDS)
    client.models.create(
        name="m",
        dataset="digits",
        architecture={"name": SMALL["architecture"], "parameters": SMALL["parameters"]},
        transform=SMALL["transform"],
        recipe=SMALL["recipe"],
        policy={"max_wait_seconds": 0, "margins": {"splits": 0}},
    )
    client.models.wait("m", timeout_seconds=DEADLINE_SECONDS)
    run = client.runs.create("m", seed=1)
    client.runs.wait("m", run.id, timeout_seconds=DEADLINE_SECONDS)
    asked = client.requests.create(subject_id=PERSON, dataset="digits")
    done = client.requests.wait(asked.id, timeout_seconds=DEADLINE_SECONDS)
    assert [share.status for share in done.erasures] == ["completed"]
    assert client.models.get("m").production == 2
    # Each of the two lanes that compute has two processes.
    for number in (1, 2):
        assert instance.said().count(f"process {number} of 2 computes on cpu") == 2
    instance.process.terminate()
    assert instance.process.wait(DEADLINE_SECONDS) == 0
    assert not any(str(home).encode() in one for one in _environments())


def _key(home: Path) -> str:
    engine = db.engine(Settings(_env_file=None, state_dir=home).database)
    with db.session_factory(engine)() as session:
        _, secret = keys.create(
            session, "tests", scopes=["admin"], expires_at=None, actor="tests", now=db.now()
        )
        session.commit()
    engine.dispose()
    return secret


def _environments() -> Iterator[bytes]:
    """Environments of the processes that run now."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes()
