"""Every method through the whole pipeline: it completes the request, or its fallback does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from service import audit_file
from service.ledger.audit import canonical, signing
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Artifact,
    Dataset,
    DeletionRequest,
    Model,
    Record,
    Version,
)
from service.ledger.registry import datasets, models
from service.ledger.registry.policy import Policy
from service.ledger.reports import report, verifications
from service.ledger.requests import intake
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.messages.parts import Saved
from service.messages.unlearn import Answer
from service.settings import Settings
from tests.workers import place
from tests.workers.place import LENIENT, Place
from unlearning import methods
from workers.compute.process import ComputeProcess
from workers.demo import digits
from workers.demo.digits import Digits
from workers.jobs import ingest, prepare, recording, train
from workers.runtime import Runtime


@pytest.mark.parametrize("method", methods.names())
def test_method_of_the_policy_completes_the_request(town: Place, method: str) -> None:
    town.change_policy(method=method, auto_consolidate=False)
    rows = town.training_rows()[:20]
    request = town.ask(*rows)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.forgotten() == rows
    assert town.live().method in {method, "retrain"}
    assert not town.array().rows[rows].any()
    # The model was trained without its log, and is no head on fixed features.
    refused = method == "amnesiac" or "statistics" in methods.get(method).needs
    assert refused or town.versions()[1].method == method


def test_method_that_run_now_asks_for_goes_before_the_policys(town: Place) -> None:
    town.change_policy(max_wait_seconds=3600, auto_consolidate=False, gates=LENIENT)
    request = town.ask(*town.training_rows()[:20])
    town.work()
    assert town.request(request).status == RequestStatus.ACCEPTED
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        model.run_now_at = town.runtime.now()
        model.run_now_method = {"method": "negative_gradient", "options": {}}
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.versions()[1].method == "negative_gradient"
    assert town.model().run_now_method is None


# Networks with batch norm.

ARCHITECTURES = [
    ("resnet18", {"width": 4}),
    ("vgg19", {"width": 4}),
    ("all_cnn", {"width": 8}),
    ("lenet5", {}),
]


@pytest.fixture(scope="module")
def few(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess
) -> Iterator[Place]:
    """A service with a second dataset: the first 400 digits."""
    home = tmp_path_factory.mktemp("few") / "state"
    shutil.copytree(trained, home)
    settings = Settings(_env_file=None, state_dir=home, **place.SETTINGS)
    made = Place(settings, Runtime(settings, db.engine(settings.database), compute, "w1"), home)
    whole = digits.load()
    head = Digits(
        whole.x[:400], whole.y[:400], whole.splits[:400], whole.record_ids[:400], ["s"] * 400
    )
    head.write(settings.sources / "few.npz")
    with made.runtime.session() as session:
        source = {"path": "few.npz"}
        datasets.create(session, "few", source=source, actor="key:t", now=made.runtime.now())
    ingest.run_due(made.runtime)
    yield made
    made.close()


@pytest.mark.parametrize(("name", "parameters"), ARCHITECTURES)
def test_architecture_goes_all_the_way(few: Place, name: str, parameters: dict[str, int]) -> None:
    """Described, trained, prepared, unlearned from by ``iau``, verified and promoted."""
    runtime = few.runtime
    gates = LENIENT | {"forgotten_share": 1.0, "forgotten_class_share": 1.0}
    with runtime.session() as session:
        models.create(
            session,
            name,
            dataset="few",
            architecture=name,
            parameters=parameters,
            transform={"scale": 1 / 16},
            recipe={"epochs": 1},
            policy=Policy(max_wait_seconds=0, gates=gates, auto_consolidate=False),
            actor="key:t",
            now=runtime.now(),
        )
    prepare.describe_due(runtime)
    with runtime.session() as session:
        model = session.scalars(select(Model).filter_by(name=name)).one()
        assert model.error is None
        runs.create(session, model, seed=1, actor="key:t", now=runtime.now())
    train.run_due(runtime)
    prepare.run_due(runtime)
    with runtime.session() as session:
        model = session.scalars(select(Model).filter_by(name=name)).one()
        row = session.scalars(
            select(Record)
            .join(Dataset)
            .where(Dataset.name == "few", Record.split == 0, Record.excluded_revision.is_(None))
            .order_by(Record.row)
        ).first()
        assert row is not None
        asked = intake.record(
            session,
            Ask(dataset="few", kind="records", record_ids=(row.record_id,)),
            principal="key_t",
            digester=runtime.digester,
            now=runtime.now(),
        ).answer
    few.work()
    with runtime.session() as session:
        assert session.get_one(DeletionRequest, asked["id"]).status == RequestStatus.COMPLETED
        model = session.scalars(select(Model).filter_by(name=name)).one()
        live = session.get_one(Version, model.production_id)
        assert (live.number, live.method) == (2, "iau")
        found = verifications.of(session, live)
        assert found is not None
        assert found.verdict in {"passed", "no_power"}


# The last resort: an exact version that lost accuracy.


def test_exact_version_goes_live_although_it_lost_accuracy(town: Place, tmp_path: Path) -> None:
    """One epoch is too few to reach the base version's accuracy."""
    town.change_policy(
        method="retrain", options={"epochs": 1}, fallbacks=[], on_accuracy_drop="promote"
    )
    request = town.ask(*town.training_rows()[:3])
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    live = town.live()
    assert (live.origin, live.mark) == ("retrained", "accuracy_drop")
    with town.runtime.session() as session:
        version = session.get_one(Version, live.id)
        found = verifications.of(session, version)
        assert found is not None
        assert found.verdict == "failed"
        told = report.report(
            session,
            version,
            digester=Digester.from_settings(town.settings),
            signer=signing.Signer.from_settings(town.settings),
            now=town.runtime.now(),
        )
    assert told["done"]["mark"] == "accuracy_drop"
    assert any("lost more accuracy" in sentence for sentence in told["does_not_prove"])
    saved = tmp_path / "report.json"
    saved.write_bytes(canonical.encode(told))
    assert audit_file.verify_file(saved).ok


def answer(verdict: str, *, is_anchor: bool, failed: dict[str, str] | None = None) -> Answer:
    gates = [
        {"gate": gate, "concern": concern, "outcome": "failed"}
        for gate, concern in (failed or {}).items()
    ]
    return Answer(
        checkpoint=Saved(digest="d", size_bytes=1),
        artifacts=[],
        is_anchor=is_anchor,
        notes={},
        retrain_because=[],
        timings={},
        verification={"verdict": verdict, "gates": gates},
    )


UTILITY = {"audit_accuracy": "utility"}
INTEGRITY = {"finite": "integrity"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (answer("passed", is_anchor=False), (True, None)),
        (answer("no_power", is_anchor=False), (False, "no_power")),
        (answer("no_power", is_anchor=True), (True, "no_power")),
        (answer("failed", is_anchor=False, failed=UTILITY), (False, None)),
        (answer("failed", is_anchor=True, failed=UTILITY), (True, "accuracy_drop")),
        (answer("failed", is_anchor=True, failed=INTEGRITY), (False, "accuracy_drop")),
        (answer("failed", is_anchor=True, failed=UTILITY | INTEGRITY), (False, "accuracy_drop")),
    ],
)
def test_only_accuracy_is_forgiven_and_only_to_an_exact_version(
    found: Answer, expected: tuple[bool, str | None]
) -> None:
    strict = Policy(promote_without_power=False)
    assert recording.may_go_live(found, strict, last=True) == expected


@pytest.mark.parametrize(
    ("choice", "last", "expected"),
    [
        ("next_method", False, (False, "memorised")),
        ("next_method", True, (True, "memorised")),
        ("hold", False, (True, "memorised")),
        ("promote", False, (True, "no_power")),
    ],
)
def test_what_is_left_of_memorised_records_goes_on_as_the_policy_says(
    choice: Any, last: bool, expected: tuple[bool, str]
) -> None:
    policy = Policy(on_memorised=choice)
    found = answer("no_power", is_anchor=False)
    assert recording.may_go_live(found, policy, last=last) == (True, "no_power")
    found.verification["memorised"] = {"left": True}
    assert recording.may_go_live(found, policy, last=last) == expected
    passed = answer("passed", is_anchor=False)
    passed.verification["memorised"] = {"left": True}
    assert recording.may_go_live(passed, policy, last=last) == (True, None)


# The log of a training's updates.


def kept_log(town: Place) -> dict[str, object]:
    """What the ledger says of the live anchor's log."""
    with town.runtime.session() as session:
        artifact = session.scalars(select(Artifact).filter_by(kind="logs")).one()
        return artifact.notes


def test_training_run_keeps_its_update_log(town: Place) -> None:
    town.change_policy(keep_update_log=True, method="amnesiac")
    with town.runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=2, actor="key:t", now=town.runtime.now())
    train.run_due(town.runtime)
    live = town.live()
    assert live.origin == "trained"
    assert kept_log(town) == live.notes["update_log"]
    town.ask(town.training_rows()[0])
    town.work()
    assert town.versions()[2].method == "amnesiac"
    assert town.versions()[2].notes["batches_logged"] == live.notes["update_log"]["batches"]


def test_update_log_is_kept_and_taken_back_only_once(town: Place) -> None:
    """The retrain writes a fresh log; the second batch finds it shorter by what the first took."""
    town.change_policy(method="retrain", keep_update_log=True)
    town.ask(town.training_rows()[0])
    town.work()
    log = town.live().notes["update_log"]
    assert log["complete"]
    assert log["size_bytes"] <= log["max_bytes"]
    assert kept_log(town) == log
    town.change_policy(method="amnesiac", gates=LENIENT, auto_consolidate=False)
    for row in town.training_rows()[1:3]:
        town.ask(row)
        town.work()
    first, second = town.versions()[-2:]
    assert (first.method, second.method) == ("amnesiac", "amnesiac")
    assert first.notes["batches_logged"] == log["batches"]
    left = log["batches"] - first.notes["batches_taken_back"]
    assert second.notes["batches_logged"] == left < log["batches"]


def test_update_log_over_its_cap_is_not_kept(town: Place) -> None:
    """The cap holds less than the network's updates of a few batches."""
    town.change_policy(method="retrain", keep_update_log=True, update_log_megabytes=1)
    with town.runtime.session() as session:
        model = town.model()
        session.add(model)
        model.recipe = {**model.recipe, "batch_size": 4, "epochs": 1}
    town.ask(town.training_rows()[0])
    town.work()
    live = town.live()
    assert not live.notes["update_log"]["complete"]
    assert not any((town.settings.store / "logs").glob("*/tensors.safetensors"))
