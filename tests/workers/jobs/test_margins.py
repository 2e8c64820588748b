"""Margins in the background, and the batches that have a target for each row because of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from models_store import open_store
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Artifact, AuditEvent, Batch, Lease, Model, Version
from service.ledger.registry import margins as ledger
from service.ledger.reports import report
from service.settings import Settings
from tests.stored import load
from tests.workers import place
from tests.workers.jobs.test_train import queue
from tests.workers.place import Place
from unlearning.anchored import margins as anchored
from unlearning.anchored import targets
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from workers.compute import margin_files
from workers.compute.process import ComputeProcess
from workers.compute.workspace import Workspace
from workers.demo import digits as demo_digits
from workers.fault_points import InjectedFault
from workers.jobs import plans, purge, spare, train
from workers.runtime import Runtime

ONE_SPLIT = {"splits": 1, "folds": 2}
FLIPPED = 20
#: With large inputs, rows with wrong labels are known by heart at the epoch that validates best.
LARGE = {
    "parameters": {"hidden": [256, 128]},
    "transform": {"scale": 1.0},
    "recipe": {"epochs": 60, "patience": 60, "learning_rate": 3e-3, "batch_size": 50, "alpha": 0},
}


def compute_all(town: Place) -> Artifact:
    """Train every model that the policy asks for; what is kept then."""
    while spare.run_due(town.runtime):
        pass
    [one] = kept(town)
    return one


def kept(town: Place) -> list[Artifact]:
    """What is there of margins, of every version."""
    with town.runtime.session() as session:
        wanted = select(Artifact).filter_by(kind="margins").where(Artifact.destroyed_at.is_(None))
        return list(session.scalars(wanted.order_by(Artifact.id)))


def files(town: Place) -> list[str]:
    return open_store(town.settings.store).blobs.digests("margins")


def told(town: Place, artifact: Artifact) -> dict[str, np.ndarray]:
    return load(town.settings.store, artifact.digest, kind="margins")


def shown(town: Place) -> dict[str, Any] | None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        live = session.get_one(Version, model.production_id)
        return ledger.describe(session, model, live)


@pytest.fixture(scope="module")
def known_by_heart(
    tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess
) -> tuple[Path, list[int]]:
    """A service whose model knows 20 rows with wrong labels by heart, and these rows."""
    digits = demo_digits.load()
    seeded = np.random.default_rng(7)
    rows = np.sort(seeded.choice(digits.rows(0), FLIPPED, replace=False))
    y = digits.y.copy()
    y[rows] = (y[rows] + seeded.integers(1, 10, FLIPPED)) % 10
    home = tmp_path_factory.mktemp("by-heart")
    place.found(home, compute, digits=replace(digits, y=y), network=LARGE).close()
    return home, rows.tolist()


@pytest.fixture
def by_heart(
    known_by_heart: tuple[Path, list[int]], tmp_path: Path, compute: ComputeProcess, faults: Path
) -> Iterator[tuple[Place, list[int]]]:
    home, rows = known_by_heart
    copied = tmp_path / "state"
    shutil.copytree(home, copied)
    settings = Settings(_env_file=None, state_dir=copied, **place.SETTINGS)
    made = Place(
        settings, Runtime(settings, db.engine(settings.database), compute, owner="w1"), faults
    )
    yield made, rows
    made.close()


def share_recognised(town: Place, rows: list[int], images: np.ndarray, labels: np.ndarray) -> float:
    """Of these rows, how many the live version gives the label that it was trained with."""
    network = Workspace(device="cpu").fresh(plans.model(town.model())).eval()
    named = load(town.settings.store, town.live().digest)
    network.network.load_state_dict({n: torch.from_numpy(t.copy()) for n, t in named.items()})
    with torch.no_grad():
        found = network(torch.from_numpy(images)).argmax(1).numpy()
    return float((found == labels).mean())


def test_model_with_margins_forgets_what_it_knows_by_heart(
    by_heart: tuple[Place, list[int]],
) -> None:
    town, rows = by_heart
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    images, labels = town.array().rows[rows].copy(), town.array().labels[rows].copy()
    assert share_recognised(town, rows, images, labels) > 0.9
    assert compute_all(town).notes["complete"]
    town.ask(*rows)
    town.work()
    live = town.live()
    assert (live.number, live.method) == (2, "iau"), live.notes
    assert live.notes["step"] == "matched"
    assert share_recognised(town, rows, images, labels) < 0.1


def test_the_same_policy_without_margins_leaves_most_of_them(
    by_heart: tuple[Place, list[int]],
) -> None:
    town, rows = by_heart
    town.change_policy(auto_consolidate=False)
    images, labels = town.array().rows[rows].copy(), town.array().labels[rows].copy()
    town.ask(*rows)
    town.work()
    live = town.live()
    assert (live.number, live.method) == (2, "iau"), live.notes
    assert "no out-of-fold margins" in live.notes["instead_of"]
    assert share_recognised(town, rows, images, labels) > 0.5
