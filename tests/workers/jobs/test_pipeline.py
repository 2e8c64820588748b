"""A batch from the claim to the promoted version, and what breaks on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import Model
from service.ledger.registry import internal_state
from tests.stored import load
from tests.workers.forgetting import assert_forgotten_once, first_deletion, work_through
from tests.workers.place import Place
from workers.jobs import recording


def test_request_becomes_a_verified_version_without_its_records(town: Place) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    town.work()
    assert_forgotten_once(town, request, rows)
    live = town.live()
    assert (live.number, live.origin, live.method) == (2, "unlearned", "iau")
    others = np.setdiff1d(np.arange(len(town.array())), rows)
    assert town.array().rows[others].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    "point",
    [
        "batch.claimed",
        "batch.computing",
        "batch.computed",
        "batch.recording",
        "batch.recorded",
        "erase.overwritten",
        "erase.marked",
    ],
)
@pytest.mark.parametrize("action", ["fault", pytest.param("full_disk", marks=pytest.mark.slow)])
def test_worker_may_fail_at_any_step(town: Place, point: str, action: str) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    town.arm(point, action)
    try:
        work_through(town)
    except OSError:
        work_through(town)
    assert not town.armed(point)
    work_through(town)
    assert_forgotten_once(town, request, rows)


@pytest.mark.parametrize(
    ("point", "action"),
    [
        ("compute.loaded", "full_disk"),
        ("compute.updated", "out_of_memory"),
        pytest.param("compute.stored", "kill", marks=pytest.mark.slow),
        ("compute.verified", "full_disk"),
    ],
)
def test_compute_process_may_fail_at_any_step(town: Place, point: str, action: str) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    town.arm(point, action)
    work_through(town)
    assert not town.armed(point)
    assert_forgotten_once(town, request, rows)
    assert [batch.status for batch in town.batches()] == [
        BatchStatus.FAILED,
        BatchStatus.COMPLETED,
    ]


def test_numbers_that_are_not_finite_never_become_a_version(town: Place) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    town.arm("compute.updated", "spoil")
    work_through(town)
    assert_forgotten_once(town, request, rows)
    live = town.live()
    assert live.method == "retrain"
    weights = load(town.settings.store, live.digest)
    assert all(np.isfinite(tensor).all() for tensor in weights.values())


def test_without_another_method_numbers_that_are_not_finite_are_tried_again(town: Place) -> None:
    town.change_policy(fallbacks=[])
    request = town.ask(*town.training_rows()[:3])
    town.arm("compute.updated", "spoil")
    work_through(town)
    assert "not finite" in town.batches()[0].error
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "iau"


# A poisonous request.


def test_poisonous_request_ends_alone_in_review_and_the_others_complete(town: Place) -> None:
    """Its row's label is out of range on the disk, so every computation that reads it fails."""
    rows = town.training_rows()[:5]
    poison = rows[3]
    town.spoil_label(poison)
    asked = {row: town.ask(row) for row in rows}
    work_through(town, rounds=60)
    states = {row: town.request(one).status for row, one in asked.items()}
    assert states.pop(poison) == RequestStatus.NEEDS_REVIEW
    assert set(states.values()) == {RequestStatus.COMPLETED}
    assert town.forgotten() == [row for row in rows if row != poison]
    assert town.share(asked[poison]).status == ErasureStatus.NEEDS_REVIEW
    assert town.request(asked[poison]).status_reason
    assert town.array().rows[poison].any()


# Two workers, slow workers, wrong clocks, stops.


def test_chain_begun_without_a_prepared_anchor_takes_no_other_weights_for_one(town: Place) -> None:
    with town.runtime.session() as session:
        live = town.live()
        cache = internal_state.newest(session, live.id, "caches")
        assert cache is not None
        cache.destroyed_at = town.runtime.now()
        model = session.get_one(Model, live.model_id)
        model.run_now_method = {"method": "random_labels", "options": {"strength": "calibrated"}}
    earlier = first_deletion(town)
    assert town.live().method == "random_labels"
    rows = town.training_rows()[3:6]
    request = town.ask(*rows)
    work_through(town)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.forgotten() == sorted(earlier + rows)
    assert town.live().origin == "retrained"


SHOWN = {"revision": 1, "rows": {"retain": 0, "calibration": 0, "audit": 0}}


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (1, SHOWN),
        # Another batch of the same base, with its figures in its error, differs by one row.
        (12, {"revision": 1, "rows": SHOWN["rows"] | {"forget": 1}}),
    ],
)
def test_error_of_a_batch_does_not_tell_the_figures_of_one_record(
    rows: int, changes: dict[str, Any]
) -> None:
    """Errors are read by whoever may read requests."""
    reason = "the membership AUC is +0.321 from 0.5"
    found = {
        "verdict": "failed",
        "reasons": [f"membership: {reason}", "audit_accuracy: accuracy changed by -9 points"],
        "gates": [{"gate": "membership", "concern": "removal", "reason": reason}],
        "metrics": {"membership_auc": {"rows": rows, "value": 0.821}},
    }
    told = recording._reasons(found, changes)
    assert told.startswith("failed: membership: ")
    assert "0.321" not in told
    assert "-9 points" in told
