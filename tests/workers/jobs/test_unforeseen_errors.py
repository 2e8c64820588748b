"""A method that fails on a network of somebody's own: the policy's next one does the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.states import BatchStatus, RequestStatus
from service.ledger.database.tables import Model
from service.ledger.registry import models
from service.ledger.registry.policy import Policy
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.jobs import pipeline
from workers.runtime import Runtime

EXACT = {"method": "retrain", "options": {}}

#: As some recurrent layers of cuDNN are: there is no backward pass in evaluation mode.
NETWORK = '''
"""A network that is differentiated while it trains and at no other time."""
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Parameters:
    inputs: int = 64
    classes: int = 10


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, training):
        ctx.training = training
        return x.clone()

    @staticmethod
    def backward(ctx, above):
        if not ctx.training:
            raise RuntimeError("backward can only be called in training mode")
        return above, None


class Network(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.hidden = nn.Linear(inputs, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(Fused.apply(self.hidden(x.flatten(1)).relu(), self.training))


def build(parameters):
    return Network(parameters.inputs, parameters.classes)
'''


def install(directory: Path) -> None:
    """A package in the directory that brings the architecture ``fused``."""
    info = directory / "fused-1.0.dist-info"
    info.mkdir(parents=True)
    (directory / "fused_network.py").write_text(NETWORK)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fused\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unlearning.architectures]\nfused = fused_network\n")


def create_model(session: Session, runtime: Runtime, _network: Mapping[str, Any]) -> None:
    models.create(
        session,
        "m",
        dataset="digits",
        architecture="fused",
        parameters={},
        transform={"scale": 1 / 16},
        recipe={"epochs": 3, "learning_rate": 0.01, "alpha": 0},
        # What a retrain's seed costs it is held in the tests of that alone.
        policy=Policy(max_wait_seconds=0, auto_consolidate=False, on_accuracy_drop="promote"),
        actor="key:test",
        now=runtime.now(),
    )


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A service whose only model is a network of their own, with its own compute process."""
    install(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(place, "_create_model", create_model)
    process = ComputeProcess(device="cpu", threads=1)
    made = place.found(tmp_path / "state", process)
    yield made
    made.close()
    process.kill()


def test_next_method_is_asked_and_the_version_says_why(theirs: Place) -> None:
    theirs.change_policy(method="boundary_shrink", gates={"audit_accuracy_drop": 1.0})
    rows = theirs.training_rows()[:20]
    request = theirs.ask(*rows)
    theirs.work()
    assert theirs.request(request).status == RequestStatus.COMPLETED
    assert [batch.status for batch in theirs.batches()] == [BatchStatus.COMPLETED]
    live = theirs.live()
    assert live.method == "retrain"
    assert live.notes["passed_over"] == [
        "boundary_shrink: RuntimeError: backward can only be called in training mode"
    ]


def test_without_a_next_method_the_request_says_why(theirs: Place) -> None:
    theirs.change_policy(method="boundary_shrink", fallbacks=[])
    request = theirs.ask(*theirs.training_rows()[:20])
    for _ in range(theirs.settings.max_attempts):
        theirs.work()
    assert theirs.request(request).status == RequestStatus.NEEDS_REVIEW
    assert "only be called in training mode" in (theirs.request(request).status_reason or "")


def test_error_after_the_update_is_answered_by_the_next_method(town: Place) -> None:
    request = town.ask(*town.training_rows()[:3])
    town.arm("compute.verified", "fault")
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"
    assert town.live().notes["passed_over"] == ["iau: InjectedFault: injected: fault"]


def test_retrain_that_fails_unforeseen_is_tried_again(town: Place) -> None:
    town.change_policy(method="retrain", fallbacks=[{"method": "iau"}])
    request = town.ask(*town.training_rows()[:3])
    town.arm("compute.verified", "fault")
    town.work()
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"
    statuses = [batch.status for batch in town.batches()]
    assert statuses == [BatchStatus.FAILED, BatchStatus.COMPLETED]


def test_machine_that_fails_at_the_last_attempt_too_is_answered_by_the_next_method(
    town: Place,
) -> None:
    """The method may need more memory than there will ever be."""
    request = town.ask(*town.training_rows()[:3])
    for _ in range(town.settings.max_attempts):
        town.arm("compute.updated", "out_of_memory")
        pipeline.run_model(town.runtime, town.model().id, trains=False)
    assert [batch.trains for batch in town.batches()] == [False, True]
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "retrain"


def test_batch_that_must_be_exact_has_no_second_choice(town: Place) -> None:
    town.change_policy(fallbacks=[{"method": "retrain"}, {"method": "iau"}])
    with town.runtime.session() as session:
        session.scalars(select(Model)).one().run_now_method = EXACT
    town.ask(*town.training_rows()[:3])
    with town.begun() as (_, claimed):
        pass
    assert [attempt.choice.method for attempt in claimed.methods] == ["retrain"]


def test_requests_of_a_model_whose_training_diverges_are_put_aside_at_once(town: Place) -> None:
    """Neither another attempt nor fewer requests would change it."""
    town.change_policy(method="retrain", fallbacks=[])
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        diverging = {"optimiser": "sgd", "learning_rate": 10.0, "weight_decay": 1.0}
        model.recipe = model.recipe | diverging
    requests = [town.ask(row) for row in town.training_rows()[:4]]
    town.work()
    assert len(town.batches()) == 1
    for request in requests:
        assert town.request(request).status == RequestStatus.NEEDS_REVIEW
        assert "lower the learning rate" in (town.request(request).status_reason or "")


def test_refusals_that_would_come_again_are_not_tried_again(town: Place) -> None:
    """Requests are still taken apart, since one of them may be what is refused."""
    town.change_policy(method="retrain", options={"epochs": 0}, fallbacks=[])
    one, other = (town.ask(row) for row in town.training_rows()[:2])
    town.work()
    assert [batch.attempts for batch in town.batches()] == [1, 1, 1]
    assert {batch.status for batch in town.batches()} == {BatchStatus.FAILED}
    for request in (one, other):
        assert town.request(request).status == RequestStatus.NEEDS_REVIEW
        assert "epochs" in (town.request(request).status_reason or "")
