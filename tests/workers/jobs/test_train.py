"""Training runs: attempts, stops, and deletions that are made while one trains."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from models_store import tensors
from service.ledger.batches import leases
from service.ledger.database.states import RequestStatus, RunStatus, VersionStatus
from service.ledger.database.tables import Model, TrainingRun
from service.ledger.registry import forgotten
from service.ledger.training import runs
from service.messages.train import TRAIN, Answer, Request
from tests.workers.forgetting import assert_forgotten_once, clock_ahead
from tests.workers.place import Place
from workers.compute.process import ComputeDied
from workers.fault_points import InjectedFault
from workers.jobs import train, training_request, training_result
from workers.runtime import Runtime


def queue(town: Place, *, seed: int = 2) -> str:
    with town.runtime.session() as session:
        model = session.scalars(select(Model).filter_by(name="m")).one()
        run = runs.create(
            session,
            model,
            reason="consolidate",
            seed=seed,
            actor="key:k",
            now=town.runtime.now(),
        )
    return run.id


def get(town: Place, run_id: str) -> TrainingRun:
    with town.runtime.session() as session:
        return session.get_one(TrainingRun, run_id)


def compute(runtime: Runtime, request: Request, held: leases.Held) -> Answer:
    return runtime.ask(TRAIN, request, held=held, timeout_seconds=60)


def test_run_becomes_the_live_version(town: Place) -> None:
    run_id = queue(town)
    assert train.run_due(town.runtime)
    assert get(town, run_id).status == RunStatus.COMPLETED
    live = town.live()
    assert (live.number, live.origin, live.anchor_id) == (2, "trained", live.id)


def test_same_seed_gives_the_same_weights(town: Place) -> None:
    queue(town, seed=1)
    train.run_due(town.runtime)
    first, second = town.versions()
    assert first.digest == second.digest


def test_deletion_made_during_a_training_is_applied_before_its_version_goes_live(
    town: Place,
) -> None:
    run_id = queue(town)
    rows = town.training_rows()[:3]
    with town.runtime.lease(f"run:{run_id}") as held:
        assert held is not None
        begun = training_request.start(town.runtime, run_id, held)
        assert begun is not None
        request = town.ask(*rows)
        town.work()
        # The old anchor's successor is live; the raw rows wait for the one that has seen them.
        assert town.live().number == 2
        assert town.request(request).status == RequestStatus.PROCESSING
        assert town.array().rows[rows].any()
        answer = compute(town.runtime, begun, held)
        training_result.record(town.runtime, run_id, held, begun, answer)
    assert town.live().number == 2
    candidate = town.versions()[-1]
    assert candidate.status == VersionStatus.CANDIDATE
    assert town.array().rows[rows].any()
    town.work()
    live = town.live()
    assert live.anchor_id == candidate.id
    assert town.request(request).status == RequestStatus.COMPLETED
    assert not town.array().rows[rows].any()
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, live) == []
    # Once in the chain of each anchor, and in no chain twice.
    assert town.forgotten() == sorted(rows * 2)


def test_training_that_starts_after_a_deletion_never_sees_its_rows(town: Place) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    town.work()
    run_id = queue(town)
    with town.runtime.lease(f"run:{run_id}") as held:
        assert held is not None
        begun = training_request.start(town.runtime, run_id, held)
    assert begun is not None
    assert set(rows) <= set(begun.data.excluded)
    assert_forgotten_once(town, request, rows)


@pytest.mark.parametrize("point", ["train.claimed", "train.computed", "train.recorded"])
def test_worker_may_fail_at_any_step(town: Place, point: str) -> None:
    run_id = queue(town)
    town.arm(point, "fault")
    with pytest.raises(InjectedFault):
        train.run_due(town.runtime)
    train.run_due(town.runtime)
    assert get(town, run_id).status == RunStatus.COMPLETED
    assert [version.number for version in town.versions()] == [1, 2]


def test_run_whose_worker_dies_each_time_is_given_up(town: Place) -> None:
    run_id = queue(town)
    for _ in range(town.settings.max_attempts):
        town.arm("train.claimed", "fault")
        with pytest.raises(InjectedFault):
            train.run_due(town.runtime)
    train.run_due(town.runtime)
    assert get(town, run_id).status == RunStatus.FAILED
    assert town.live().number == 1


def test_diverging_training_fails_once_and_says_what_to_lower(town: Place) -> None:
    # Weight decay alone multiplies the weights by -9 in each step.
    recipe = {"optimiser": "sgd", "learning_rate": 10.0, "weight_decay": 1.0, "alpha": 0.0}
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        model.recipe = model.recipe | recipe
    run_id = queue(town)
    train.run_due(town.runtime)
    run = get(town, run_id)
    assert (run.status, run.attempts) == (RunStatus.FAILED, 1)
    assert run.error is not None
    assert re.fullmatch(
        r"the loss became (NaN|infinite) in epoch \d+; "
        r"lower the learning rate \(recipe\.learning_rate\)",
        run.error,
    )


def test_training_whose_process_is_killed_is_tried_again(town: Place) -> None:
    run_id = queue(town)
    with town.runtime.lease(f"run:{run_id}") as held:
        assert held is not None
        assert training_request.start(town.runtime, run_id, held) is not None
        train._fail(town.runtime, run_id, held, ComputeDied("ended by SIGKILL"))
    run = get(town, run_id)
    assert (run.status, run.error) == (RunStatus.QUEUED, "ended by SIGKILL")
    train.run_due(town.runtime)
    assert get(town, run_id).status == RunStatus.COMPLETED


def test_stopping_worker_hands_its_run_back_uncounted(town: Place) -> None:
    run_id = queue(town)
    with town.runtime.lease(f"run:{run_id}") as held:
        assert held is not None
        training_request.start(town.runtime, run_id, held)
        assert get(town, run_id).attempts == 1
        train._hand_back(town.runtime, run_id, held, "stopping")
    run = get(town, run_id)
    assert (run.status, run.attempts) == (RunStatus.QUEUED, 0)


def test_overtaken_worker_neither_records_nor_hands_back(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue(town)
    with town.runtime.lease(f"run:{run_id}") as held:
        assert held is not None
        begun = training_request.start(town.runtime, run_id, held)
        assert begun is not None
        answer = compute(town.runtime, begun, held)
        with clock_ahead(monkeypatch):
            train.run_due(town.second())
        train._hand_back(town.runtime, run_id, held, "stopping")
        with pytest.raises(leases.LeaseLost):
            training_result.record(town.runtime, run_id, held, begun, answer)
    assert get(town, run_id).status == RunStatus.COMPLETED
    assert [version.number for version in town.versions()] == [1, 2]


def test_worker_that_lost_its_lease_leaves_the_states_of_the_next_one(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next holder keeps one and has not recorded it yet."""
    run_id, made = queue(town), list[str]()

    def lose(_runtime: Runtime, *_given: Any, held: leases.Held, **_more: Any) -> None:
        tensor = {"weights": np.zeros(3, np.float32)}
        saved = tensors.save(town.runtime.store.blobs, tensor, {"owner": run_id}, kind="trainings")
        made.append(saved.digest)
        raise leases.LeaseLost(held.key)

    monkeypatch.setattr(Runtime, "ask", lose)
    train.run_due(town.runtime)
    assert get(town, run_id).status == RunStatus.RUNNING
    assert town.runtime.store.blobs.digests("trainings") == made != []
