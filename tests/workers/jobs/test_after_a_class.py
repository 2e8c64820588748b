"""What follows a forgotten class: the class stays forgotten, whatever is forgotten next."""

from __future__ import annotations

import numpy as np
import torch
from sqlalchemy import select

from service.ledger.database.tables import Model, Version
from tests.workers.place import LENIENT, Place
from unlearning.core import objective
from unlearning.core.examples import Examples
from workers.compute.workspace import Workspace
from workers.demo import digits
from workers.jobs import plans

#: How much of a class that was never learned a small network may name by chance.
UNRECOGNISED = 0.03


def recognised(town: Place, label: int) -> float:
    """Share of all rows of a class, as they were before anything was overwritten, that is named."""
    with town.runtime.session() as session:
        about = plans.model(session.scalars(select(Model)).one())
    workspace = Workspace(device="cpu", threads=1)
    network = workspace.load(town.runtime.store, about, town.live().digest)
    data = digits.load()
    labels = torch.tensor(np.asarray(data.y)).long()
    examples = Examples(torch.tensor(np.asarray(data.x)), labels)
    rows = (labels == label).nonzero()[:, 0]
    return float(objective.correct(network, examples.subset(rows)).double().mean())


def is_exact(version: Version) -> bool:
    return (version.origin, version.method, version.anchor_id) == (
        "retrained",
        "retrain",
        version.id,
    )


def test_class_stays_forgotten_when_another_one_follows(town: Place) -> None:
    town.change_policy(method="iau", auto_consolidate=False)
    town.ask_for_class(1)
    town.work()
    assert town.live().method == "iau"
    town.ask_for_class(8)
    town.work()
    assert is_exact(town.live())
    assert [batch.method for batch in town.batches()] == [
        None,
        {"method": "retrain", "options": {}},
    ]
    assert max(recognised(town, 1), recognised(town, 8)) <= UNRECOGNISED


def test_class_stays_forgotten_when_records_follow(town: Place) -> None:
    """Whatever the policy says by then, and whatever method was asked for the batch."""
    town.change_policy(
        method="boundary_shrink", options={"strength": "calibrated"}, auto_consolidate=False
    )
    town.ask_for_class(3)
    town.work()
    assert town.live().method == "boundary_shrink"
    random_labels = {"method": "random_labels", "options": {"strength": "calibrated"}}
    town.change_policy(**random_labels, gates=LENIENT)
    with town.runtime.session() as session:
        session.scalars(select(Model)).one().run_now_method = random_labels
    left = [row for row in town.training_rows() if town.array().rows[row].any()]
    town.ask(*left[:40])
    town.work()
    assert is_exact(town.live())
    assert recognised(town, 3) <= UNRECOGNISED


def test_method_of_the_policy_is_back_once_a_retrain_has_ended_the_chain(town: Place) -> None:
    town.change_policy(auto_consolidate=False)
    town.ask_for_class(1)
    town.work()
    left = [row for row in town.training_rows() if town.array().rows[row].any()]
    town.ask(*left[:5])
    town.work()
    assert is_exact(town.live())
    town.ask(*left[5:10])
    town.work()
    assert town.live().method == "iau"
    assert recognised(town, 1) <= UNRECOGNISED
