"""Margins in the background: models trained one at a time, resumed, given up, and used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, select

from models_store import open_store
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, Dataset, Lease, Model, Version
from service.ledger.selection import record_lists
from tests.workers import place
from tests.workers.jobs.test_interrupted_training import in_a_thread, train_for_long
from tests.workers.jobs.test_train import queue
from tests.workers.margins import ONE_SPLIT, compute_all, files, holds, kept, shown, told
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import DEADLINE_SECONDS, running, until
from unlearning.anchored import margins as anchored
from unlearning.anchored import targets
from unlearning.core import training
from unlearning.core.examples import Examples
from workers.compute.process import ComputeProcess
from workers.compute.workspace import Workspace
from workers.demo import digits as demo_digits
from workers.fault_points import InjectedFault
from workers.jobs import pipeline, plans, purge, spare
from workers.runtime import Runtime


def test_models_are_trained_one_at_a_time_and_what_aims_and_judges_stays(town: Place) -> None:
    town.change_policy(margins={"splits": 2, "folds": 2})
    assert shown(town) == {
        "state": "waiting",
        "reason": None,
        "models": 4,
        "trained": 0,
        "epochs": 0.0,
        "rows": 0,
    }
    for trained in (1, 2, 3, 4):
        before = files(town)
        assert spare.run_due(town.runtime)
        [one] = kept(town)
        assert files(town) == [one.digest]
        assert one.digest not in before
        assert (one.notes["trained"], one.notes["complete"]) == (trained, trained == 4)
        seen = shown(town)
        assert seen is not None
        assert (seen["state"], seen["trained"]) == ("ready" if trained == 4 else "partial", trained)
        # Half of the rows, at most as often as the recipe says.
        assert trained / 2 <= seen["epochs"] <= 12 * trained / 2
    assert not spare.run_due(town.runtime)
    aims, judges = {"value", "variance", "numbers"}, {"values", "judge", "never_seen"}
    numbers = {"rows", "never_seen_rows", "never_seen_judge"}
    assert set(told(town, one)) == aims | judges | numbers
    assert told(town, one)["rows"].tolist() == town.training_rows()
    with town.runtime.session() as session:
        lines = session.scalars(select(AuditEvent).filter_by(action="version:state_destroyed"))
        destroyed = [line.data["receipt"]["destroyed"] for line in lines]
    assert [[file["kind"] for file in files] for files in destroyed] == [["margins"]] * 3


def test_rows_of_an_anchor_that_has_a_list_are_those_of_the_list(town: Place) -> None:
    """So it is of a version that was retrained from an import."""
    audit = np.flatnonzero(np.asarray(town.array().splits) == 2).tolist()
    rows, live = sorted([*town.training_rows()[:-20], *audit[:5]]), town.live()
    with town.runtime.session() as session:
        listed = record_lists.create(
            session,
            session.scalars(select(Dataset)).one(),
            [f"digit-{row:04d}" for row in rows],
            actor="key:k",
            now=town.runtime.now(),
        )
        session.get_one(Version, live.id).record_list_id = listed.id
    town.change_policy(margins=ONE_SPLIT)
    found = told(town, compute_all(town))
    assert found["rows"].tolist() == rows
    assert not set(audit[:5]) & set(found["never_seen_rows"].tolist())


def test_targets_are_those_of_models_trained_as_the_anchor_was(town: Place) -> None:
    """The same by hand: folds by subject, the recipe, the anchor's margins."""
    town.change_policy(margins=ONE_SPLIT)
    found = told(town, compute_all(town))
    model, live, array = plans.model(town.model()), town.live(), town.array()
    x, y = torch.from_numpy(np.array(array.rows)), torch.from_numpy(np.array(array.labels))
    sets = [
        Examples(x, y, torch.from_numpy(np.flatnonzero(np.asarray(array.splits) == split)))
        for split in (0, 1)
    ]
    subject_ids = demo_digits.load().subject_ids
    by_subject = {name: n for n, name in enumerate(dict.fromkeys(subject_ids))}
    groups = torch.tensor([by_subject[subject_ids[row]] for row in sets[0].positions])
    workspace = Workspace(device="cpu", threads=1)
    recipe = training.Recipe(**model.recipe)
    out = anchored.prepare(
        lambda seed: workspace.fresh(model, generator=torch.Generator().manual_seed(seed)),
        sets[0],
        sets[1],
        trainer=anchored.by_recipe(recipe, sets[1]),
        groups=groups,
        options=anchored.Splits(**ONE_SPLIT),
        seed=live.seed,
    )
    full = workspace.load(open_store(town.settings.store), model, live.digest)
    expected = targets.fit(
        out,
        own=anchored.of_examples(full, sets[0]),
        held_out=anchored.of_examples(full, sets[1]),
    )
    assert len(set(groups[out.fold[0] == 0].tolist()) & set(groups[out.fold[0] == 1].tolist())) == 0
    assert np.array_equal(found["value"], expected.value.numpy())
    assert np.array_equal(found["variance"], expected.variance.numpy())


@pytest.mark.parametrize("point", ["margins.computed", "margins.recorded"])
def test_what_a_worker_that_died_had_trained_is_gone_on_from(town: Place, point: str) -> None:
    town.change_policy(margins={"splits": 1, "folds": 3})
    whole = compute_all(town).digest
    town.change_policy(margins={"splits": 0, "folds": 3})
    assert purge.run_due(town.runtime)
    assert (kept(town), files(town)) == ([], [])
    town.change_policy(margins={"splits": 1, "folds": 3})
    assert spare.run_due(town.runtime)
    town.arm(point, "fault")
    with pytest.raises(InjectedFault):
        spare.run_due(town.runtime)
    noted = kept(town)[-1].notes["trained"]
    assert noted == (1 if point == "margins.computed" else 2)
    second = town.second()
    models = 0
    while spare.run_due(second):
        models += 1
    assert models == 3 - noted
    purge.run_due(second)
    # As if nothing had been.
    assert [one.digest for one in kept(town)] == [whole]


def test_damaged_margins_are_computed_from_the_beginning(town: Place) -> None:
    town.change_policy(margins=ONE_SPLIT)
    whole = compute_all(town).digest
    town.change_policy(margins={"splits": 0, "folds": 2})
    purge.run_due(town.runtime)
    town.change_policy(margins=ONE_SPLIT)
    assert spare.run_due(town.runtime)
    town.damage("margins", kept(town)[0].digest)
    assert spare.run_due(town.runtime)
    assert kept(town)[0].notes["trained"] == 1
    assert compute_all(town).digest == whole  # the same folds, by subject


def left_batch(town: Place) -> None:
    """Leave a batch to the trainings lane."""
    town.arm("compute.updated", "fault")
    town.ask(town.training_rows()[0])
    pipeline.run_steps_due(town.runtime)
    assert [batch.trains for batch in town.batches()] == [True]


@pytest.mark.parametrize("wait", [queue, left_batch])
def test_model_in_training_gives_way(town: Place, wait: Callable[[Place], object]) -> None:
    town.change_policy(margins=ONE_SPLIT)
    assert spare.run_due(town.runtime)
    wait(town)
    train_for_long(town)
    assert not spare.run_due(town.runtime)
    [one] = kept(town)
    assert one.notes["trained"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["off", "another anchor"])
def test_model_in_training_ends_when_it_is_not_wanted_any_more(
    town: Place, compute: ComputeProcess, end: str
) -> None:
    town.change_policy(margins=ONE_SPLIT, on_accuracy_drop="promote")
    first = town.live().id
    own = ComputeProcess(device="cpu", threads=1)
    other = Runtime(town.settings, town.runtime.engine, own, owner="w3")
    recipe = dict(town.model().recipe)
    train_for_long(town)
    thread = in_a_thread(lambda: spare.run_due(other))
    until(lambda: own.pid is not None and holds(town, f"margins:{first}"), "the training")
    if end == "off":
        town.change_policy(margins={"splits": 0, "folds": 2})
    else:
        with town.runtime.session() as session:
            model = session.scalars(select(Model)).one()
            model.recipe = recipe
        town.change_policy(method="retrain")
        town.ask(town.training_rows()[0])
        town.work()
        assert town.live().anchor_id != first
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    own.kill()
    assert (kept(town), files(town)) == ([], [])


def test_damaged_margins_are_no_reason_to_wait(town: Place) -> None:
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    town.damage("margins", compute_all(town).digest)
    request = town.ask(town.training_rows()[0])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert "no out-of-fold margins" in town.live().notes["instead_of"]
    assert (kept(town), files(town)) == ([], [])
    assert compute_all(town).notes["complete"]


@pytest.mark.postgres
def test_margins_on_postgres(
    postgres_database: Engine, compute: ComputeProcess, faults: Path, tmp_path: Path
) -> None:
    """Computed, a row's values destroyed with its raw data, all when the policy is changed."""
    url = postgres_database.url.render_as_string(hide_password=False)
    town = replace(place.found(tmp_path, compute, database_url=url), faults=faults)
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
    assert compute_all(town).notes["complete"]
    row = town.training_rows()[0]
    request = town.ask(row)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().notes["step"] == "matched"
    [one] = kept(town)
    assert files(town) == [one.digest]
    assert row not in told(town, one)["rows"]
    assert not purge.run_due(town.runtime)
    town.change_policy(margins={"splits": 0, "folds": 2})
    assert purge.run_due(town.runtime)
    assert (kept(town), files(town)) == ([], [])
    town.close()


@pytest.mark.slow
def test_margins_of_a_real_worker_survive_its_end(town: Place, tmp_path: Path) -> None:
    town.change_policy(margins={"splits": 1, "folds": 3})
    whole = compute_all(town).digest
    town.change_policy(margins={"splits": 0, "folds": 3})
    purge.run_due(town.runtime)
    town.arm("margins.recorded", "kill")
    settings = town.settings.model_copy(
        update={"poll_seconds": 0.1, "grace_seconds": 5.0, "lease_seconds": 1.0}
    )
    with running(settings, tmp_path / "first.log") as worker:
        town.change_policy(margins={"splits": 1, "folds": 3})
        worker.wait(DEADLINE_SECONDS)
    assert kept(town)[-1].notes["trained"] == 1
    with running(settings, tmp_path / "second.log"):
        until(lambda: [one.digest for one in kept(town)] == [whole], "the end of the last model")


def test_training_that_fails_is_not_tried_again_at_once(town: Place) -> None:
    town.change_policy(margins=ONE_SPLIT)
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        model.recipe = {**model.recipe, "epochs": -1}
    assert not spare.run_due(town.runtime)
    with town.runtime.session() as session:
        pause = session.get_one(Lease, f"margins-pause:{town.live().id}")
    assert pause.until > town.runtime.now()


def test_imported_anchor_has_none_and_the_model_says_why(town: Place) -> None:
    town.change_policy(margins=ONE_SPLIT)
    with town.runtime.session() as session:
        session.get_one(Version, town.live().id).origin = "imported"
    assert not spare.run_due(town.runtime)
    seen = shown(town)
    assert seen is not None
    assert seen["state"] == "unavailable"
    assert "imported" in seen["reason"]


def test_anchor_that_was_trained_for_too_long_has_none(town: Place) -> None:
    seconds = town.live().timings["train"]
    town.change_policy(margins={**ONE_SPLIT, "max_training_seconds": seconds / 2})
    assert not spare.run_due(town.runtime)
    seen = shown(town)
    assert seen is not None
    assert (seen["state"], kept(town)) == ("unavailable", [])
    town.change_policy(margins={**ONE_SPLIT, "max_training_seconds": seconds})
    assert spare.run_due(town.runtime)


def test_without_the_policy_nothing_is_computed_or_shown(town: Place) -> None:
    assert not spare.run_due(town.runtime)
    assert kept(town) == []
    assert shown(town) is None
