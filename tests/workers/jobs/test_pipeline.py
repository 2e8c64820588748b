"""A batch from the claim to the promoted version, and what breaks on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from models_store import open_store
from service.ledger.audit import chain
from service.ledger.batches import claims, leases, queue
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Dataset, Model, Version
from service.ledger.registry import forgotten, internal_state, versions
from service.ledger.reports import verifications
from service.ledger.requests import lifecycle
from tests.stored import load
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess, Stopping
from workers.fault_points import InjectedFault
from workers.jobs import claiming, computing, erase, pipeline, recording


def work_through(town: Place, *, rounds: int = 30) -> None:
    """Work as the lane does: whatever a recipe raises, the next round goes on."""
    for _ in range(rounds):
        try:
            pipeline.run_due(town.runtime)
        except InjectedFault:
            continue
        with town.runtime.session() as session:
            if not queue.due_models(session, now=town.runtime.now()):
                break
    erase.run_due(town.runtime)


def assert_forgotten_once(town: Place, request_id: str, rows: list[int]) -> None:
    """The promise: one completed batch, production without the rows, the rows overwritten."""
    assert town.request(request_id).status == RequestStatus.COMPLETED
    assert town.forgotten() == rows
    live = town.live()
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        assert forgotten.requests_in(session, model, live) == []
        assert chain.verify(session).sound
    array = town.array()
    assert not array.rows[rows].any()
    assert [move.version_id for move in town.moves()].count(live.id) == 1


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
@pytest.mark.parametrize("action", ["fault", "full_disk"])
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
        ("compute.stored", "kill"),
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


# Damage in the store.


def first_deletion(town: Place) -> list[int]:
    rows = town.training_rows()[:3]
    town.ask(*rows)
    town.work()
    return rows


def test_damaged_cache_of_a_fresh_anchor_is_made_again(town: Place) -> None:
    with town.runtime.session() as session:
        cache = internal_state.newest(session, town.live().id, "caches")
    assert cache is not None
    town.runtime.compute.kill()  # it remembers what it has read before
    town.damage("caches", cache.digest)
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    work_through(town)
    assert_forgotten_once(town, request, rows)
    assert town.live().method == "iau"


@pytest.mark.parametrize("kind", ["caches", "states"])
def test_damaged_state_of_a_chain_is_answered_with_a_retrain(town: Place, kind: str) -> None:
    earlier = first_deletion(town)
    live = town.live()
    with town.runtime.session() as session:
        owner = live.anchor_id if kind == "caches" else live.id
        artifact = internal_state.newest(session, owner, kind)
    assert artifact is not None
    town.runtime.compute.kill()
    town.damage(kind, artifact.digest)
    rows = town.training_rows()[3:6]
    request = town.ask(*rows)
    work_through(town)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.forgotten() == sorted(earlier + rows)
    assert town.live().origin == "retrained"


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_damaged_weights_are_answered_with_a_retrain_that_says_so(town: Place, file: str) -> None:
    town.damage("checkpoints", town.live().digest, file)
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    work_through(town)
    assert_forgotten_once(town, request, rows)
    live = town.live()
    assert live.origin == "retrained"
    assert "base_damaged" in live.notes


def test_damage_without_a_way_out_ends_in_review_and_may_be_retried_after_a_repair(
    town: Place,
) -> None:
    town.change_policy(fallbacks=[])
    digest = town.live().digest
    before = town.damage("checkpoints", digest)
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    work_through(town)
    assert town.request(request).status == RequestStatus.NEEDS_REVIEW
    assert "damaged" in town.request(request).status_reason
    assert len(town.batches()) == town.settings.max_attempts
    (town.settings.store / "checkpoints" / digest / "tensors.safetensors").write_bytes(before)
    with town.runtime.session() as session:
        lifecycle.retry(session, request, actor="key:k")
    work_through(town)
    assert_forgotten_once(town, request, rows)


def test_scores_of_an_untrained_stand_in_are_not_kept_for_the_damaged_version(
    town: Place, trained: Path, tmp_path: Path, compute: ComputeProcess, faults: Path
) -> None:
    """The same version, intact in another service of the same compute process."""
    broken = place.copied(trained, tmp_path / "broken", compute, faults)
    broken.damage("checkpoints", broken.live().digest)
    broken.ask(broken.training_rows()[0])
    broken.work()
    assert "base_damaged" in broken.live().notes
    broken.close()
    town.ask(town.training_rows()[0])
    town.work()
    with town.runtime.session() as session:
        found = verifications.of(session, session.get_one(Version, town.live().id))
    assert found is not None
    assert found.measured["sets"]["control"]["audit"]["accuracy"] > 0.8


def test_damaged_scores_of_an_earlier_batch_are_left_out_of_the_pooling(town: Place) -> None:
    first_deletion(town)
    with town.runtime.session() as session:
        scores = internal_state.newest(session, town.live().id, "scores")
    assert scores is not None
    town.damage("scores", scores.digest)
    request = town.ask(*town.training_rows()[3:6])
    work_through(town)
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "iau"


# A poisonous request.


def test_poisonous_request_ends_alone_in_review_and_the_others_complete(town: Place) -> None:
    """Its row's label is out of range on the disk, so every computation that reads it fails."""
    rows = town.training_rows()[:5]
    poison = rows[3]
    labels = town.settings.store / "arrays" / town.array().key / "labels.npy"
    stored = np.load(labels)
    stored[poison] = 99
    labels.chmod(0o644)
    np.save(labels, stored)
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


def test_second_worker_leaves_a_model_alone_that_is_worked_on(town: Place) -> None:
    request = town.ask(town.training_rows()[0])
    with town.runtime.lease(leases.of_model(town.model().id)) as held:
        assert held is not None
        assert not pipeline.run_model(town.second(), town.model().id, trains=False)
    assert town.request(request).status == RequestStatus.ACCEPTED
    assert town.batches() == []


def test_overtaken_worker_drops_its_work(town: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one's clock is an hour ahead, so it takes the batch over at once."""
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    model_id = town.model().id
    with claiming.begun(town.runtime, model_id, trains=False) as found:
        assert found is not None
        held, claimed = found
        monkeypatch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", "3600")
        pipeline.run_due(town.second())
        monkeypatch.delenv("UNLEARN_FAULT_CLOCK_SECONDS")
        assert town.live().number == 2
        with pytest.raises(leases.LeaseLost):
            computing.unlearn(town.runtime, held, claimed, trains=False)
        pipeline._hand_back(town.runtime, held, claimed, because="late")
        pipeline._fail(town.runtime, held, claimed, RuntimeError("late"))
    assert_forgotten_once(town, request, rows)
    assert [version.number for version in town.versions()] == [1, 2]
    assert [batch.status for batch in town.batches()] == [BatchStatus.COMPLETED]


def test_worker_that_was_overtaken_before_it_claims_leaves_the_batch_alone(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    model_id = town.model().id
    with town.runtime.lease(leases.of_model(model_id)) as held:
        assert held is not None
        monkeypatch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", "3600")
        pipeline.run_due(town.second())
        monkeypatch.delenv("UNLEARN_FAULT_CLOCK_SECONDS")
        with town.runtime.session() as session, pytest.raises(leases.LeaseLost):
            claims.claim(
                session, session.get_one(Model, model_id), held=held, now=town.runtime.now()
            )
    assert_forgotten_once(town, request, rows)
    assert [batch.status for batch in town.batches()] == [BatchStatus.COMPLETED]


def test_stopping_worker_hands_its_batch_back_uncounted(town: Place) -> None:
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    model_id = town.model().id
    with claiming.begun(town.runtime, model_id, trains=False) as found:
        assert found is not None
        held, claimed = found
        town.runtime.stopped_at = 0.0
        town.runtime.stop.set()
        with pytest.raises(Stopping):
            town.runtime.heed_stop()
        pipeline._hand_back(town.runtime, held, claimed, because="stopping")
    share = town.share(request)
    assert (share.status, share.attempts) == (ErasureStatus.PENDING, 0)
    pipeline.run_due(town.second())
    assert_forgotten_once(town, request, rows)


def test_production_moved_by_hand_in_the_middle_is_respected(town: Place) -> None:
    """The batch is handed back and done again on the version that is live then."""
    with town.runtime.session() as session:
        first = town.live()
        model = session.scalars(select(Model)).one()
        other = versions.register(
            session,
            model,
            origin="imported",
            digest=first.digest,
            size_bytes=first.size_bytes,
            data_revision=0,
            seed=0,
            code_version="0",
            now=town.runtime.now(),
            actor="key:k",
        )
    rows = town.training_rows()[:3]
    request = town.ask(*rows)
    model_id = town.model().id
    with claiming.begun(town.runtime, model_id, trains=False) as found:
        assert found is not None
        held, claimed = found
        with town.runtime.session() as session:
            versions.promote(
                session,
                session.scalars(select(Model)).one(),
                session.get_one(Version, other.id),
                expected_production=first.id,
                reason="by hand",
                actor="key:k",
                now=town.runtime.now(),
            )
        with pytest.raises(versions.ProductionMoved):
            computing.unlearn(town.runtime, held, claimed, trains=False)
        pipeline._hand_back(town.runtime, held, claimed, because="production was moved by hand")
    work_through(town)
    assert_forgotten_once(town, request, rows)
    assert town.live().anchor_id == other.id


def test_batch_without_rows_is_not_completed_on_a_version_that_is_no_longer_live(
    town: Place,
) -> None:
    earlier = first_deletion(town)
    with town.runtime.session() as session:
        dataset = session.scalars(select(Dataset)).one()
        key = dataset.array_key
    assert key is not None
    request = town.ask(town.training_rows()[-1])
    model_id = town.model().id
    with claiming.begun(town.runtime, model_id, trains=False) as found:
        assert found is not None
        held, claimed = found
        with town.runtime.session() as session:
            model = session.get_one(Model, model_id)
            model.production_id = model.production_id - 1 if model.production_id else None
        with pytest.raises(versions.ProductionMoved):
            recording.complete_without_update(town.runtime, held, claimed)
    assert town.share(request).status == ErasureStatus.CLAIMED
    assert open_store(town.settings.store).rows.erased(key).tolist() == earlier


def test_withdrawn_versions_are_named_in_the_alias_history_only(town: Place) -> None:
    first_deletion(town)
    first, second = town.versions()
    assert (first.status, second.status) == (VersionStatus.RETIRED, VersionStatus.PUBLISHED)
    assert [move.version_id for move in town.moves()] == [first.id, second.id]
    assert [move.previous_id for move in town.moves()] == [None, first.id]


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
