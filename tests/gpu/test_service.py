"""A worker whose compute process works on a device: a request through, and memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select

from service.ledger.database.states import RequestStatus, RunStatus
from service.ledger.database.tables import Model, TrainingRun
from service.ledger.registry import datasets, models
from service.ledger.registry.policy import Margins, Policy
from service.ledger.training import runs
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.jobs import ingest, prepare, train

pytestmark = pytest.mark.gpu

#: One batch of all of these through a wide network keeps some 200 GB of activations.
LARGE_ROWS = 45_000


@pytest.fixture
def compute(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ComputeProcess]:
    """A compute process on the device; files in ``faults`` arm its fault points."""
    (tmp_path / "faults").mkdir()
    monkeypatch.setenv("UNLEARN_FAULTS", str(tmp_path / "faults"))
    process = ComputeProcess(device=str(device), threads=0)
    yield process
    process.kill()


@pytest.fixture
def served(compute: ComputeProcess, tmp_path: Path) -> Iterator[Place]:
    """A service with a model that was trained and prepared on the device."""
    made = place.found(tmp_path / "state", compute)
    made = Place(made.settings, made.runtime, tmp_path / "faults")
    yield made
    made.close()


def test_a_request_becomes_a_verified_version(served: Place) -> None:
    request = served.ask(*served.training_rows()[:40])
    served.work()
    assert served.request(request).status == RequestStatus.COMPLETED
    live = served.live()
    assert (live.number, live.method) == (2, "iau")


def test_memory_that_runs_out_in_a_batch_leaves_the_lane_alive(served: Place) -> None:
    request = served.ask(*served.training_rows()[:3])
    served.arm("compute.updated", "out_of_memory")
    for _ in range(3):
        served.work()
    assert not served.armed("compute.updated")
    assert served.request(request).status == RequestStatus.COMPLETED


def test_a_training_too_large_for_the_card_is_refused_and_the_next_one_runs(
    served: Place, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("it takes a card to fill its memory; the processor's is the machine's")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (LARGE_ROWS + 200, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, len(images))
    split = np.array(["train"] * LARGE_ROWS + ["validation", "audit"] * 100)
    np.savez(served.settings.sources / "images.npz", x=images, y=labels, split=split)
    runtime = served.runtime
    with runtime.session() as session:
        datasets.create(
            session, "images", source={"path": "images.npz"}, actor="key:t", now=runtime.now()
        )
    ingest.run_due(runtime)
    for name, rows in (("large", LARGE_ROWS), ("small", 256)):
        _train(served, name, batch_size=rows)
    large, small = (_run(served, name) for name in ("large", "small"))
    assert large.status == RunStatus.FAILED
    assert "memory" in str(large.error)
    assert small.status == RunStatus.COMPLETED


def _train(served: Place, name: str, *, batch_size: int) -> None:
    runtime = served.runtime
    with runtime.session() as session:
        models.create(
            session,
            name,
            dataset="images",
            architecture="all_cnn",
            parameters={"width": 96},
            transform={},
            recipe={"epochs": 1, "batch_size": batch_size, "alpha": 0},
            policy=Policy(margins=Margins(splits=0)),
            actor="key:t",
            now=runtime.now(),
        )
    prepare.describe_due(runtime)
    with runtime.session() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        runs.create(session, model, seed=1, actor="key:t", now=runtime.now())
    for _ in range(4):  # failed attempts are tried again
        train.run_due(runtime)


def _run(served: Place, name: str) -> TrainingRun:
    with served.runtime.session() as session:
        return session.scalars(
            select(TrainingRun)
            .join(Model, Model.id == TrainingRun.model_id)
            .where(Model.name == name)
        ).one()
