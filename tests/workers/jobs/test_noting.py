"""What is noted with a lease for operators: what its holder computes, and how far that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.ledger.batches import leases
from service.ledger.database.tables import Lease
from service.ledger.reports import workload
from service.messages.train import TRAIN
from tests.workers.jobs.test_train import queue
from tests.workers.place import Place
from workers import runtime as runtimes
from workers.jobs import training_request


class Enough(Exception):
    """The test has seen what it waits for."""


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "NOTE_SECONDS", 0.0)


def test_a_long_computation_says_what_it_is_and_how_far_it_is(town: Place) -> None:
    runtime = town.runtime
    run_id = queue(town)
    seen: list[tuple[str | None, float | None]] = []

    def look() -> None:
        with runtime.session() as session:
            [held] = workload.leases(session)
        assert (held.owner, held.since is not None) == (runtime.owner, True)
        seen.append((held.doing, held.progress))
        if held.progress:
            raise Enough

    with runtime.lease(leases.of_run(run_id)) as held:
        assert held is not None
        begun = training_request.start(runtime, run_id, held)
        assert begun is not None
        recipe = {**begun.model.recipe, "epochs": 10_000, "keep": "last"}
        request = replace(begun, model=replace(begun.model, recipe=recipe))
        with pytest.raises(Enough):
            runtime.ask(TRAIN, request, held=held, timeout_seconds=120, watch=look)
    assert seen[0] == (None, None)  # before the first look nothing is written
    assert seen[-1][0] == "train"
    assert 0 < (seen[-1][1] or 0) < 1
    with runtime.lease(leases.of_run(run_id)) as again, runtime.session() as session:
        assert again is not None
        assert session.get_one(Lease, again.key).doing is None
        assert session.get_one(Lease, again.key).progress is None


def test_nothing_is_noted_with_a_lease_that_another_worker_has(town: Place) -> None:
    runtime = town.runtime
    with runtime.lease("model:1") as held, runtime.session() as session:
        assert held is not None
        leases.note(session, replace(held, fence=held.fence + 1), doing="unlearn", progress=0.5)
        assert session.get_one(Lease, "model:1").doing is None
        leases.note(session, held, doing="unlearn", progress=1.5)
        session.expire_all()
        assert session.get_one(Lease, "model:1").progress == 1.0
