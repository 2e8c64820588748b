"""Files of a version or its chain that are damaged or missing, and what a batch makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Version
from service.ledger.registry import internal_state
from service.ledger.reports import verifications
from service.ledger.requests import lifecycle
from tests.workers import place
from tests.workers.forgetting import assert_forgotten_once, first_deletion, work_through
from tests.workers.place import Place
from workers.compute.process import ComputeProcess


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
