"""Encoders whose compute process dies: the check and the features are tried again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.messages.encode import ENCODE
from tests import encoders, texts
from tests.workers.office import STATEMENT, Office, opened
from workers.compute.process import ComputeProcess
from workers.jobs import encoders as jobs
from workers.jobs import ingest
from workers.runtime import Runtime

#: It kills real processes: `make test-faults`.
pytestmark = pytest.mark.slow

ROWS = 12


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), compute) as found:
        encoders.write(found.settings.sources / "small")
        yield found


class Killed(ComputeProcess):
    """A compute process that is killed in the middle of its first ``times`` computations."""

    def __init__(self, times: int) -> None:
        super().__init__(device="cpu", threads=1)
        self.times = times

    def call(self, operation: Any, *given: Any, **more: Any) -> Any:
        if operation is ENCODE and self.times:
            self.times -= 1
            more["progress"] = self._kill
        return super().call(operation, *given, **more)

    def _kill(self, _seen: Any) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)


def ask(office: Office, name: str) -> Callable[[], Any]:
    body = {"name": name, "source": {"path": "small"}, "statement": STATEMENT}
    assert office.client.post("/v1/encoders", json=body).status_code == 202
    return lambda: office.client.get(f"/v1/encoders/{name}").json()


def test_a_check_that_ran_over_its_time_is_tried_again_by_another_worker(office: Office) -> None:
    shown = ask(office, "slow")
    hurried = office.another("hurried", batch_timeout_seconds=0.001)
    assert jobs.run_due(hurried)
    assert (shown()["status"], shown()["error"]) == ("checking", None)
    assert not jobs.run_due(hurried)  # not at once
    assert jobs.run_due(office.runtime)
    assert (shown()["status"], shown()["error"]) == ("ready", None)


def test_a_check_that_never_ends_is_given_up(office: Office) -> None:
    shown = ask(office, "endless")
    for number in range(3):
        assert shown()["status"] == "checking"
        assert jobs.run_due(office.another(f"hurried-{number}", batch_timeout_seconds=0.001))
    assert shown()["status"] == "failed"
    assert "ran over its time" in shown()["error"]
    # Who adds it again has all attempts again.
    ask(office, "endless")
    assert jobs.run_due(office.another("hurried-again", batch_timeout_seconds=0.001))
    assert shown()["status"] == "checking"
    assert jobs.run_due(office.runtime)
    assert shown()["status"] == "ready"


def features(office: Office, name: str, worker: Runtime) -> Any:
    """A dataset of features that the worker ingests, as it is shown then."""
    found = office.client.get("/v1/encoders/small")
    encoder = found.json() if found.status_code == 200 else office.add_encoder("small")
    texts.write_csv(office.settings.sources / f"{name}.csv", ROWS)
    options = {"encoder": encoder["digest"], "max_length": 8}
    body = {
        "name": name,
        "source": {"path": f"{name}.csv"},
        "input": {"name": "features", "options": options},
    }
    assert office.client.post("/v1/datasets", json=body).status_code == 202
    ingest.run_due(worker)
    worker.compute.kill()
    return office.client.get(f"/v1/datasets/{name}").json()


def test_features_are_made_again_after_a_death(office: Office) -> None:
    compute = Killed(1)
    shown = features(office, "letters", office.another("unlucky", compute))
    assert shown["status"] == "ready", shown["error"]
    assert compute.times == 0


def test_features_that_are_never_made_refuse_the_source(office: Office) -> None:
    hurried = office.another("hurried features", batch_timeout_seconds=0.001)
    shown = features(office, "refused", hurried)
    assert shown["status"] == "failed"
    assert "ran over its time" in shown["error"]


def test_a_directory_of_this_machine_is_refused_at_once(office: Office, tmp_path: Path) -> None:
    from service.ledger.registry import encoders as registry

    folder = encoders.write(tmp_path / "mine")
    hurried = office.another("command line", batch_timeout_seconds=0.001)
    with hurried.session() as session:
        registry.create(
            session, "mine", source={"path": "mine"}, statement=STATEMENT, actor="cli",
            now=hurried.now(),
        )  # fmt: skip
    with hurried.lease(jobs.lease_key("mine")) as held:
        assert held is not None
        reason = jobs.check(hurried, "mine", folder, held=held)
    assert reason is not None
    assert "ran over its time" in reason
    assert office.client.get("/v1/encoders/mine").json()["status"] == "failed"
