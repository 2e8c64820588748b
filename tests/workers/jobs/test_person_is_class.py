"""An image folder with a directory for each person: forgetting one is forgetting a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from models_store import open_store
from service.ledger.database import db, schema
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Batch, Model
from service.ledger.registry import datasets, models
from service.ledger.registry.policy import Policy
from service.ledger.reports import verifications
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.settings import Settings
from tests.workers import place
from tests.workers.place import Place
from workers.compute.process import ComputeProcess
from workers.demo import digits
from workers.jobs import ingest, prepare, train
from workers.runtime import Runtime
from workers.schedule import catalogue

PERSON = 3
NAME = "people"


@pytest.fixture(scope="module")
def people(
    tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess, faults: Path
) -> Iterator[Place]:
    """A service with a model on ten people, one of each digit's name, and its prepared anchor."""
    home = tmp_path_factory.mktemp("people")
    settings = Settings(_env_file=None, state_dir=home, **place.SETTINGS)
    _write_people(settings.sources / NAME)
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    runtime = Runtime(settings, engine, compute, owner="w0")
    catalogue.announce(runtime)
    with runtime.session() as session:
        datasets.create(session, NAME, source={"path": NAME}, actor="key:test", now=runtime.now())
    ingest.run_due(runtime)
    with runtime.session() as session:
        models.create(
            session,
            "m",
            dataset=NAME,
            architecture="mlp",
            parameters={"hidden": [16]},
            transform={},
            recipe={"epochs": 12, "learning_rate": 0.01, "alpha": 0},
            policy=Policy(max_wait_seconds=0, auto_consolidate=False),
            actor="key:test",
            now=runtime.now(),
        )
    prepare.describe_due(runtime)
    with runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=1, actor="key:test", now=runtime.now())
    train.run_due(runtime)
    prepare.run_due(runtime)
    made = Place(settings, runtime, home)
    yield made
    made.close()


def _write_people(folder: Path) -> None:
    data = digits.load()
    for row, (image, label) in enumerate(zip(data.x, data.y, strict=True)):
        person = folder / f"person-{label}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] * 15).save(person / f"{row:04d}.png")


def test_all_rows_of_a_person_who_is_a_class_are_forgotten_and_judged_as_one(
    people: Place,
) -> None:
    theirs = np.flatnonzero(np.asarray(people.array().labels) == PERSON)
    with people.runtime.session() as session:
        receipt = intake.record(
            session,
            Ask(dataset=NAME, kind="subject", subject_id=f"person-{PERSON}"),
            principal="key_test",
            digester=people.runtime.digester,
            now=people.runtime.now(),
        )
    people.work()
    request = people.request(str(receipt.answer["id"]))
    assert (request.kind, request.status) == ("subject", RequestStatus.COMPLETED)
    live = people.live()
    with people.runtime.session() as session:
        batches = session.scalars(select(Batch)).all()
        found = verifications.of(session, live)
    assert {batch.kind for batch in batches} == {"class"}
    assert found is not None
    assert found.measured["kind"] == "class"
    assert found.measured["verdict"] == "passed", found.measured["reasons"]
    metrics = found.measured["metrics"]
    # The model called nearly all of the person's rows by name, and no longer does.
    for gate in ("class_accuracy", "class_accuracy_never_seen"):
        assert metrics[gate]["value"] <= 0.05 < 0.8 < metrics[gate]["control"]["value"]
    assert (
        open_store(people.settings.store).rows.erased(people.array().key).tolist()
        == theirs.tolist()
    )
