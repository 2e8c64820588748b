"""Margins in the background, and the batches that have a target for each row because of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, select

from models_store import open_store
from service.ledger.audit.signing import Signer
from service.ledger.database.states import BatchStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Artifact, AuditEvent, Lease, Model, Version
from service.ledger.destruction import withdrawals
from service.ledger.registry import margins as ledger
from service.ledger.reports import disclosure, report, verifications
from tests.stored import load
from tests.workers import place
from tests.workers.jobs.test_interrupted_training import in_a_thread, train_for_long
from tests.workers.jobs.test_train import queue
from tests.workers.place import Place
from tests.workers.schedule.test_lanes import DEADLINE_SECONDS, running, until
from unlearning.anchored import margins as anchored
from unlearning.anchored import targets
from unlearning.core import training
from unlearning.core.examples import Examples
from workers.compute import margin_files
from workers.compute.process import ComputeProcess
from workers.compute.workspace import Workspace
from workers.demo import digits as demo_digits
from workers.fault_points import InjectedFault
from workers.jobs import pipeline, plans, purge, spare, train
from workers.runtime import Runtime

ONE_SPLIT = {"splits": 1, "folds": 2}
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


def measured(town: Place) -> dict[str, Any]:
    """What the verification of the live version measured."""
    with town.runtime.session() as session:
        found = verifications.of(session, town.live())
        assert found is not None
        return found.measured


def shown(town: Place) -> dict[str, Any] | None:
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        live = session.get_one(Version, model.production_id)
        return ledger.describe(session, model, live)


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


def holds(town: Place, lease: str) -> bool:
    with town.runtime.session() as session:
        found = session.get(Lease, lease)
        return found is not None and found.until > town.runtime.now()


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
    town.change_policy(margins=ONE_SPLIT, auto_consolidate=False)
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
