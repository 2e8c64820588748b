"""Rows that a model knows by heart: forgotten with margins, or kept from going live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.ledger.database.states import BatchStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Version
from service.ledger.reports import disclosure, verifications
from tests.stored import load
from tests.workers import place
from tests.workers.margins import ONE_SPLIT, compute_all, measured
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.compute.workspace import Workspace
from workers.demo import digits as demo_digits
from workers.jobs import pipeline, plans

FLIPPED = 20


#: With these the gates that use margins tell nothing.
BLIND = {
    "calibrated_excess": 0.5,
    "excess_tails": 1.0,
    "refit_membership": 0.5,
    "chain_alarms": 0.0,
}


#: With large inputs, rows with wrong labels are soon known by heart.
LARGE = {
    "architecture": "mlp",
    "parameters": {"hidden": [256, 128]},
    "transform": {"scale": 1.0},
    "recipe": {"epochs": 30, "patience": 30, "learning_rate": 3e-3, "batch_size": 50, "alpha": 0},
}


@pytest.fixture(scope="module")
def known_by_heart(
    tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess
) -> tuple[Path, list[int]]:
    """A service whose model knows 20 rows with wrong labels by heart, and these rows.

    Each has a border of its own: by that it is learned within a few epochs, before the one that
    validates best, however the processor rounds.
    """
    digits = demo_digits.load()
    seeded = np.random.default_rng(7)
    rows = np.sort(seeded.choice(digits.rows(0), FLIPPED, replace=False))
    x, y = digits.x.copy(), digits.y.copy()
    y[rows] = (y[rows] + seeded.integers(1, 10, FLIPPED)) % 10
    x[rows, ..., 0] = 12 * seeded.integers(0, 2, (FLIPPED, 1, 8))
    home = tmp_path_factory.mktemp("by-heart")
    place.found(home, compute, digits=replace(digits, x=x, y=y), network=LARGE).close()
    return home, rows.tolist()


@pytest.fixture(scope="module")
def with_margins(
    known_by_heart: tuple[Path, list[int]],
    tmp_path_factory: pytest.TempPathFactory,
    compute: ComputeProcess,
    faults: Path,
) -> Path:
    """The same service with margins of one split."""
    home = tmp_path_factory.mktemp("by-heart-with-margins") / "state"
    town = place.copied(known_by_heart[0], home, compute, faults)
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    assert compute_all(town).notes["complete"]
    town.close()
    return home


@pytest.fixture(params=["margins"])
def by_heart(
    request: pytest.FixtureRequest,
    known_by_heart: tuple[Path, list[int]],
    tmp_path: Path,
    compute: ComputeProcess,
    faults: Path,
) -> Iterator[tuple[Place, list[int]]]:
    home, rows = known_by_heart
    if request.param == "margins":
        home = request.getfixturevalue("with_margins")
    made = place.copied(home, tmp_path / "state", compute, faults)
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
    images, labels = town.array().rows[rows].copy(), town.array().labels[rows].copy()
    assert share_recognised(town, rows, images, labels) > 0.9
    town.ask(*rows)
    town.work()
    live = town.live()
    assert (live.number, live.method) == (2, "iau"), live.notes
    assert live.notes["step"] == "matched"
    assert share_recognised(town, rows, images, labels) < 0.3
    judged = measured(town)["metrics"]["calibrated_excess_auc"]
    assert (judged["rows"], judged["unknown_rows"]) == (FLIPPED, 0)
    assert judged["control_remembered_p"] <= 0.01 < judged["remembered_p"]
    assert judged["control"]["value"] > judged["value"]
    # The one split that there is has set the targets.
    assert judged["circular"]


def test_batches_with_margins_add_up_along_their_chain(town: Place) -> None:
    town.change_policy(margins={"splits": 2, "folds": 2}, auto_consolidate=False)
    compute_all(town)
    for batches, rows in enumerate((town.training_rows()[:2], town.training_rows()[2:5]), 1):
        town.ask(*rows)
        town.work()
        live = town.live()
        assert live.method == "iau", live.notes
        metrics = measured(town)["metrics"]
        assert metrics["chain_evidence"]["batches"] == batches
        assert metrics["calibrated_excess_auc"]["rows"] == len(rows)
        assert not metrics["calibrated_excess_auc"]["circular"]


def test_what_is_left_of_memorised_rows_is_seen_on_ten_of_them(
    by_heart: tuple[Place, list[int]],
) -> None:
    town, rows = by_heart
    town.change_policy(options={"step": "calibrated"})
    town.ask(*rows[:10])
    town.work()
    assert town.live().method == "retrain"
    [passed_over] = town.live().notes["passed_over"]
    assert passed_over.startswith("iau: failed")
    assert town.versions()[1].status == VersionStatus.REJECTED


def test_what_is_left_of_memorised_rows_does_not_go_live(
    by_heart: tuple[Place, list[int]],
) -> None:
    """Where no gate can tell: held while there is no other method, else retrained."""
    town, rows = by_heart
    # A step so short that it forgets nothing, however the processor rounds.
    short = {"step": "adam1", "learning_rate": 1e-7}
    town.change_policy(options=short, fallbacks=[], gates=BLIND)
    images, labels = town.array().rows[rows].copy(), town.array().labels[rows].copy()
    first = town.ask(*rows[:10])
    town.work()
    assert town.live().number == 1
    [held] = town.batches()
    assert (held.status, town.versions()[-1].mark) == (BatchStatus.HELD, "memorised")
    told = town.request(first)
    assert told.status == RequestStatus.PROCESSING
    assert "memorised" in str(told.status_reason)
    with town.runtime.session() as session:
        found = verifications.of(session, session.get_one(Version, town.versions()[-1].id))
    assert found is not None
    assert found.verdict == "no_power"
    memorised = found.measured["memorised"]
    assert memorised["by_margins"] == memorised["rows"] == 10
    assert memorised["right"] >= 9 > 3 > memorised["expected"]
    assert "memorised" not in disclosure.measured(found.measured, {"rows": {}})
    # More of them: all are judged together, and the next method follows.
    town.change_policy(fallbacks=[{"method": "retrain"}])
    second = town.ask(*rows[10:])
    pipeline.run_steps_due(town.runtime)
    assert town.live().number == 1
    for request in (first, second):
        assert "retrain is tried next" in str(town.request(request).status_reason)
    town.work()
    live = town.live()
    assert live.method == "retrain"
    assert share_recognised(town, rows, images, labels) < 0.3
    for request in (first, second):
        told = town.request(request)
        assert (told.status, told.status_reason) == (RequestStatus.COMPLETED, None)


@pytest.mark.parametrize("by_heart", ["none"], indirect=True)
def test_the_same_policy_without_margins_takes_the_calibrated_step(
    by_heart: tuple[Place, list[int]],
) -> None:
    town, rows = by_heart
    town.change_policy(auto_consolidate=False)
    town.ask(*rows)
    town.work()
    live = town.live()
    assert (live.number, live.method) == (2, "iau"), live.notes
    assert "no out-of-fold margins" in live.notes["instead_of"]
    assert live.notes["step"] == "calibrated"
