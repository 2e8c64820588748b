"""Preparing anchors: quick to leave alone what fails."""

from __future__ import annotations

from service.ledger.registry import internal_state
from tests.workers.place import Place
from workers.jobs import prepare


def forget_cache(town: Place) -> None:
    with town.runtime.session() as session:
        cache = internal_state.newest(session, town.live().id, "caches")
        assert cache is not None
        cache.destroyed_at = town.runtime.now()


def test_anchor_is_prepared_once(town: Place) -> None:
    forget_cache(town)
    assert prepare.run_due(town.runtime)
    assert not prepare.run_due(town.runtime)


def test_anchor_that_cannot_be_prepared_is_not_tried_again_at_once(town: Place) -> None:
    forget_cache(town)
    before = town.damage("checkpoints", town.live().digest)
    assert not prepare.run_due(town.runtime)
    file = town.settings.store / "checkpoints" / town.live().digest / "tensors.safetensors"
    file.write_bytes(before)
    assert not prepare.run_due(town.runtime)  # it rests
    assert prepare.run_due(town.second())


def test_deletion_does_not_wait_for_a_preparation(town: Place) -> None:
    forget_cache(town)
    rows = town.training_rows()[:2]
    town.ask(*rows)
    town.work()
    assert (town.live().number, town.live().method) == (2, "iau")
    assert town.forgotten() == rows
