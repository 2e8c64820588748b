"""Margins go: a row's with its raw data, all with their anchor, version or model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Model, Version
from service.ledger.destruction import withdrawals
from service.ledger.reports import report
from tests.workers.jobs.test_train import queue
from tests.workers.margins import ONE_SPLIT, compute_all, files, kept, shown, told
from tests.workers.place import LENIENT, Place
from workers.compute import margin_files
from workers.jobs import purge, spare, train
from workers.runtime import Runtime


def test_margins_go_when_another_anchor_is_live(town: Place) -> None:
    town.change_policy(margins=ONE_SPLIT)
    before = compute_all(town)
    queue(town)
    train.run_due(town.runtime)
    assert town.live().anchor_id != before.version_id
    assert purge.run_due(town.runtime)
    assert files(town) == []
    after = compute_all(town)
    assert after.version_id == town.live().id
    assert not purge.run_due(town.runtime)


def test_values_of_a_row_go_with_its_raw_data(town: Place) -> None:
    # By chance a gate fails one honest step in a hundred, and a retrain would be another anchor.
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False, gates=LENIENT)
    before = compute_all(town)
    at_first = told(town, before)
    gone = town.training_rows()[3:6]
    these = np.isin(at_first["rows"], gone)
    values = [*at_first["value"][these], *at_first["values"][:, these].ravel()]
    file = town.settings.store / "margins" / before.digest / "tensors.safetensors"
    assert all(value.tobytes() in file.read_bytes() for value in values)
    request = town.ask(*gone)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    [after] = kept(town)
    assert files(town) == [after.digest]
    left = told(town, after)
    assert left["rows"].tolist() == [r for r in at_first["rows"].tolist() if r not in gone]
    stays = ~np.isin(at_first["rows"], gone)
    assert np.array_equal(left["value"], at_first["value"][stays])
    content = b"".join(one.read_bytes() for one in town.settings.store.rglob("*") if one.is_file())
    assert not any(value.tobytes() in content for value in values)
    assert after.notes["rows"] == len(at_first["rows"]) - 3
    seen = shown(town)
    assert seen is not None
    assert seen["state"] == "ready"


def test_values_of_a_row_go_also_while_models_are_trained(town: Place) -> None:
    town.change_policy(margins={"splits": 1, "folds": 3}, auto_consolidate=False)
    assert spare.run_due(town.runtime)
    gone = town.training_rows()[3:6]
    town.ask(*gone)
    town.work()
    [partial] = kept(town)
    assert partial.notes["trained"] == 1
    assert not set(gone) & set(told(town, partial)["rows"].tolist())
    one = compute_all(town)
    assert one.notes["complete"]
    assert told(town, one)["rows"].tolist() == [r for r in town.training_rows() if r not in gone]


def test_row_that_is_excluded_while_a_model_is_trained_gets_no_value(
    town: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    gone = town.training_rows()[:2]
    ask = Runtime.ask

    def deletes_meanwhile(self: Runtime, operation: Any, *given: Any, **named: Any) -> Any:
        answer = ask(self, operation, *given, **named)
        if operation.name == "margins":
            monkeypatch.undo()
            town.ask(*gone)
            town.work()
        return answer

    monkeypatch.setattr(Runtime, "ask", deletes_meanwhile)
    assert spare.run_due(town.runtime)
    [one] = kept(town)
    assert files(town) == [one.digest]
    assert not set(gone) & set(told(town, one)["rows"].tolist())
    assert compute_all(town).notes["complete"]


def test_raw_row_stands_until_its_values_are_gone(town: Place) -> None:
    """Another worker holds what is to be destroyed: the request is completed when it is done."""
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    compute_all(town)
    row = town.training_rows()[0]
    request = town.ask(row)
    with town.second().lease(purge.key(town.live().id)) as held:
        assert held is not None
        town.work()
        assert town.request(request).status == RequestStatus.PROCESSING
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    [one] = kept(town)
    assert files(town) == [one.digest]
    assert row not in told(town, one)["rows"]


@pytest.mark.parametrize("what", ["version", "model"])
def test_margins_go_when_they_are_withdrawn(town: Place, what: str) -> None:
    town.change_policy(margins=ONE_SPLIT, purge_after_seconds=86_400)
    compute_all(town)
    live = town.live()
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        said = {"actor": "key:test", "now": town.runtime.now()}
        if what == "model":
            withdrawals.withdraw_model(session, model, **said)
        else:
            version = session.get_one(Version, live.id)
            withdrawals.withdraw_version(session, model, version, **said)
    assert not spare.run_due(town.runtime)
    # At once: the window is for weights.
    assert purge.run_due(town.runtime)
    assert (kept(town), files(town)) == ([], [])


def test_margins_are_listed_as_internal_state_after_a_deletion(town: Place) -> None:
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    compute_all(town)
    town.ask(town.training_rows()[0])
    town.work()
    [one] = kept(town)
    live = town.live()
    with town.runtime.session() as session:
        made = report.report(
            session,
            session.get_one(Version, live.id),
            digester=town.runtime.digester,
            signer=Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    assert one.digest in [left["digest"] for left in made["remaining"] if left["kind"] == "margins"]


def test_file_without_rows_keeps_all_others() -> None:
    seeded = np.random.default_rng(1)
    named = {
        "rows": np.array([2, 5, 9]),
        "values": seeded.random((2, 3)),
        "fold": seeded.integers(0, 2, (2, 3)),
        "held_out_rows": np.array([1, 7]),
        "held_out": seeded.random((2, 2, 2)),
        "never_seen_rows": np.array([5, 6]),
        "never_seen": seeded.random((2, 2)),
        "epochs": np.ones((2, 2), dtype=np.int64),
    }
    left = margin_files.without(named, {5, 7, 100})
    assert left is not None
    for name, array in {
        "rows": named["rows"][[0, 2]],
        "values": named["values"][:, [0, 2]],
        "fold": named["fold"][:, [0, 2]],
        "held_out_rows": named["held_out_rows"][[0]],
        "held_out": named["held_out"][:, :, [0]],
        "never_seen_rows": np.array([6]),
        "never_seen": named["never_seen"][:, [1]],
        "epochs": named["epochs"],
    }.items():
        assert np.array_equal(left[name], array), name
    assert margin_files.without(named, {3, 100}) is None
