"""A worker each of whose steps is computed by two processes together, of which one is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from models_store import open_store
from service.ledger.database.states import RunStatus
from service.ledger.database.tables import Model
from tests.workers.compute.test_group import TWO, are_gone, ranks
from tests.workers.forgetting import assert_forgotten_once
from tests.workers.jobs.test_interrupted_training import in_a_thread
from tests.workers.jobs.test_train import get, queue
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import DEADLINE_SECONDS, until
from workers.compute.process import ComputeProcess
from workers.jobs import pipeline, train
from workers.runtime import Runtime

#: It kills real processes: `make test-faults`.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(faults: object) -> Iterator[ComputeProcess]:
    made = ComputeProcess(device="cpu", threads=1, processes=TWO)
    yield made
    made.kill()


@pytest.fixture
def shared(town: Place, two: ComputeProcess) -> Place:
    """The service, with a worker that computes on two processes and keeps every epoch's state."""
    town.settings = town.settings.model_copy(update={"training_state_seconds": 0.0})
    town.runtime = Runtime(town.settings, town.runtime.engine, two, owner="w2")
    return town


def test_training_that_lost_a_process_goes_on_and_ends_as_if_nothing_had_been(
    shared: Place, two: ComputeProcess
) -> None:
    with shared.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        model.recipe = model.recipe | {"epochs": 30, "keep": "last"}
    lost = queue(shared, seed=1)
    shared.arm("train.kept", "wait")
    working = in_a_thread(lambda: train.run_due(shared.runtime))
    until(lambda: not shared.armed("train.kept"), "the first epoch")
    pids = ranks(two)
    os.kill(pids[1], signal.SIGKILL)
    (shared.faults / "train.kept.go").touch()
    working.join(DEADLINE_SECONDS)
    assert not working.is_alive()
    assert are_gone(pids)
    assert get(shared, lost).status == RunStatus.QUEUED
    assert train.run_due(shared.runtime)
    assert get(shared, lost).status == RunStatus.COMPLETED
    whole = queue(shared, seed=1)
    assert train.run_due(shared.runtime)
    assert get(shared, whole).status == RunStatus.COMPLETED
    _, resumed, uninterrupted = shared.versions()
    assert resumed.notes["resumed_after_epochs"] >= 1
    assert resumed.digest == uninterrupted.digest
    assert open_store(shared.settings.store).blobs.digests("trainings") == []


@pytest.mark.parametrize(
    ("point", "what"),
    [
        ("compute.loaded", "kill"),
        ("compute.loaded", "out_of_memory"),
        ("compute.stored", "kill"),
    ],
)
def test_batch_of_which_one_process_failed_alone_is_done_once(
    shared: Place, point: str, what: str
) -> None:
    """The first of the two that reaches the point fails there."""
    rows = shared.training_rows()[:2]
    request = shared.ask(*rows)
    shared.arm(point, what)
    pipeline.run_due(shared.runtime)
    assert not shared.armed(point)
    pipeline.run_due(shared.runtime)
    assert_forgotten_once(shared, request, rows)
