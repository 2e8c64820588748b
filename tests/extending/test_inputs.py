"""The kind of input of ``docs/extending/inputs.md`` and its network, known to nobody here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.ledger.database import db, schema
from service.ledger.database.tables import Model, Record, Version
from service.ledger.reports import verifications
from service.settings import Settings
from tests.extending import packages
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from tests.workers import place
from tests.workers.place import LENIENT
from unlearning import architectures, inputs
from workers.compute.process import ComputeProcess
from workers.jobs import ingest, pipeline, prepare, train
from workers.readers import process as reading
from workers.runtime import Runtime
from workers.schedule import catalogue

#: It installs packages: `make test-packages`.
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending" / "inputs.md"
ROWS, VOCABULARY, PAD, LENGTH, CLASSES = 900, 40, 0, 9, 3
TOKENS = {"name": "tokens", "options": {"vocabulary": VOCABULARY, "pad": PAD}}


def sentences(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, length) int32 of 3 to 9 tokens, most of them of a dozen that their class prefers."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % CLASSES
    x = np.full((rows, LENGTH), PAD, np.int32)
    for row, label in enumerate(y):
        count = random.integers(3, LENGTH + 1)
        own = 1 + 12 * label + random.integers(0, 12, count)
        x[row, :count] = np.where(random.random(count) < 0.7, own, random.integers(1, 37, count))
    return x, y


@dataclass
class Office:
    """A service of which only the processes that read and compute have the package."""

    settings: Settings
    runtime: Runtime
    client: TestClient

    def add(self, name: str, file: str, **given: Any) -> Any:
        """Ingest a file of the data root; the dataset as it is shown then."""
        body = {"name": name, "source": {"path": file}, "input": TOKENS, **given}
        answer = self.client.post("/v1/datasets", json=body)
        assert answer.status_code == 202, answer.text
        ingest.run_due(self.runtime)
        return self.client.get(f"/v1/datasets/{name}").json()

    def save(self, file: str, x: np.ndarray, y: np.ndarray | None = None) -> None:
        labels = np.arange(len(x)) % CLASSES if y is None else y
        ids = np.array([f"s{row}" for row in range(len(x))])
        np.savez(self.settings.sources / file, x=x, y=labels, id=ids)

    def live(self) -> Version:
        with self.runtime.session() as session:
            model = session.scalars(select(Model).filter_by(name="m")).one()
            return session.get_one(Version, model.production_id)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.install(DOCUMENT, "my-tokens", tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def office(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    home = tmp_path_factory.mktemp("office")
    settings = Settings(_env_file=None, state_dir=home, **place.SETTINGS)
    settings.sources.mkdir(parents=True)
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    reading._end_idle()  # one that is kept was started without the package
    with pytest.MonkeyPatch.context() as patch:
        path = [str(package), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        compute = ComputeProcess(device="cpu", threads=1)
        runtime = Runtime(settings, engine, compute, owner="w0")
        catalogue.announce(runtime)
        with callers.application(settings) as app:
            yield Office(settings, runtime, callers.client(app))
        reading._end_idle()
    engine.dispose()
    compute.kill()


@pytest.fixture(scope="module")
def trained(office: Office) -> Office:
    """A model ``m`` on the dataset ``texts``, trained and prepared."""
    office.save("texts.npz", *sentences(ROWS))
    shown = office.add("texts", "texts.npz")
    assert shown["status"] == "ready", shown["error"]
    body = {
        "name": "m",
        "dataset": "texts",
        "architecture": {"name": "mean_pool", "parameters": {"width": 8}},
        "recipe": {"epochs": 8, "learning_rate": 0.05, "alpha": 0},
        "policy": {
            "max_wait_seconds": 0,
            "gates": LENIENT,
            "auto_consolidate": False,
            "on_accuracy_drop": "promote",
        },
    }
    answer = office.client.post("/v1/models", json=body)
    assert answer.status_code == 201, answer.text
    prepare.describe_due(office.runtime)
    assert office.client.post("/v1/models/m/training-runs", json={"seed": 1}).status_code == 202
    train.run_due(office.runtime)
    prepare.run_due(office.runtime)
    return office


def forget(office: Office, *rows: int) -> Any:
    """Forget records of the train split; the request as it is shown then."""
    body = {"dataset": "texts", "record_ids": [f"s{row}" for row in rows]}
    answer = office.client.post("/v1/deletion-requests", json=body)
    assert answer.status_code == 202, answer.text
    pipeline.run_due(office.runtime)
    return office.client.get(f"/v1/deletion-requests/{answer.json()['id']}").json()


def training_rows(office: Office) -> list[int]:
    with office.runtime.session() as session:
        rows = session.scalars(
            select(Record.row)
            .join(place.Dataset)
            .where(
                place.Dataset.name == "texts",
                Record.split == 0,
                Record.excluded_revision.is_(None),
            )
        )
        return sorted(rows)


def test_it_is_listed_with_what_it_says_of_itself(office: Office) -> None:
    listed = {one["name"]: one for one in office.client.get("/v1/inputs").json()["items"]}
    assert listed.keys() == {"features", "image", "table", "text", "tokens", "typed_table"}
    shown = listed["tokens"]
    assert (shown["summary"], shown["dtypes"]) == ("Token ids, padded to one length.", ["int32"])
    assert (shown["scales"], shown["decides"]) == ({}, ["vocabulary", "length"])
    assert set(shown["options_schema"]["required"]) == {"vocabulary", "pad"}


def test_rows_are_stored_as_they_come_and_the_view_says_what_they_are(trained: Office) -> None:
    shown = trained.client.get("/v1/datasets/texts").json()
    assert (shown["dtype"], shown["shape"], shown["scale"]) == ("int32", [LENGTH], None)
    parameters = {"vocabulary": VOCABULARY, "length": LENGTH}
    assert shown["input"] == {**TOKENS, "parameters": parameters}
    with trained.runtime.session() as session:
        key = session.scalars(select(place.Dataset.array_key).filter_by(name="texts")).one()
    stored = trained.runtime.store.rows.open(key).rows
    x, _ = sentences(ROWS)
    untouched = training_rows(trained)
    assert stored.dtype == np.int32
    assert np.array_equal(stored[untouched], x[untouched])


def test_network_is_trained_on_masked_rows(trained: Office) -> None:
    shown = trained.client.get("/v1/models/m").json()
    assert shown["architecture"]["parameters"]["vocabulary"] == VOCABULARY
    assert shown["transform"] == {}
    first = trained.client.get("/v1/models/m/versions/1/verification").json()["measured"]
    assert first["sets"]["audit"]["accuracy"] > 0.7  # of three classes


def test_records_are_forgotten_by_a_step_and_by_a_training(trained: Office) -> None:
    before = trained.live().number
    rows = training_rows(trained)[:40]
    assert forget(trained, *rows)["status"] == "completed"
    step = trained.live()
    assert (step.number, step.method) == (before + 1, "iau")
    assert step.notes["strength_from"] in {"search", "natural"}
    assert forget(trained, training_rows(trained)[0])["status"] == "completed"
    assert trained.live().method == "iau"
    change = {"policy": {"method": "retrain"}}
    assert trained.client.patch("/v1/models/m", json=change).status_code == 200
    more = training_rows(trained)[:3]
    assert forget(trained, *more)["status"] == "completed"
    exact = trained.live()
    assert (exact.method, exact.origin) == ("retrain", "retrained")
    for version in (step, exact):
        with trained.runtime.session() as session:
            found = verifications.of(session, session.get_one(Version, version.id))
        assert found is not None
        assert found.verdict in {"passed", "no_power"}, found.measured["reasons"]
        judged = found.measured["metrics"]["membership_auc"]
        assert (judged["rows"] >= 40, 0 <= judged["value"] <= 1) == (True, True)
        gates = {gate["gate"]: gate["outcome"] for gate in found.measured["gates"]}
        assert {gates[name] for name in ("changed", "finite", "lineage")} == {"passed"}
    array = trained.runtime.store.rows
    with trained.runtime.session() as session:
        key = session.scalars(select(place.Dataset.array_key).filter_by(name="texts")).one()
    assert set(rows + more) <= set(array.erased(key).tolist())
    assert not np.asarray(array.open(key).rows)[rows + more].any()


def test_forgotten_rows_stay_out_of_the_next_ingest(trained: Office) -> None:
    row = training_rows(trained)[0]
    assert forget(trained, row)["status"] == "completed"
    x, y = sentences(ROWS)
    np.savez(
        trained.settings.sources / "again.npz",
        x=x[row : row + 8],
        y=y[row : row + 8],
        id=np.array([f"s{one}" for one in range(row, row + 8)]),
    )
    shown = trained.add("again", "again.npz", fractions={"train": 1, "validation": 0, "audit": 0})
    assert shown["status"] == "ready", shown["error"]
    assert shown["notes"]["suppressed"] >= 1
    assert shown["rows"] == 8 - shown["notes"]["suppressed"]


def changed(row: int, position: int, value: int) -> np.ndarray:
    x, _ = sentences(30)
    x[row, position] = value
    return x


def only_padding(row: int) -> np.ndarray:
    x, _ = sentences(30)
    x[row] = PAD
    return x


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (changed(11, 2, VOCABULARY), "Row 12, column 'x[2]': the token id lies outside"),
        (changed(3, 0, -1), "Row 4, column 'x[0]': the token id is negative"),
        (only_padding(29), "Row 30: the row is padding alone"),
        (changed(5, 1, 2).astype(np.float32), "Column 'x': expected whole numbers"),
        (changed(5, 1, 2).astype(np.int64) + 2**31, "Row 1, column 'x[0]': expected a whole"),
        (sentences(30)[0].reshape(30, 3, 3), "rows of the kind tokens have the axes (length)"),
    ],
    ids=["outside", "negative", "padding", "floats", "too_large", "axes"],
)
def test_bad_rows_are_one_clear_error_and_nothing_is_stored(
    office: Office, x: np.ndarray, error: str, request: pytest.FixtureRequest
) -> None:
    name = f"bad-{request.node.callspec.id.replace('_', '-')}"
    before = office.runtime.store.rows.keys()
    office.save(f"{name}.npz", x)
    shown = office.add(name, f"{name}.npz")
    assert shown["status"] == "failed"
    assert error in shown["error"]
    assert (shown["rows"], shown["input"]) == (None, None)
    assert office.runtime.store.rows.keys() == before
    with office.runtime.session() as session:
        dataset = select(place.Dataset.id).filter_by(name=name).scalar_subquery()
        records = select(func.count()).select_from(Record).where(Record.dataset_id == dataset)
        assert session.scalar(records) == 0


def test_parquet_brings_rows_as_lists_of_one_length(office: Office) -> None:
    x, y = sentences(30)
    table = {"ids": list(x), "label": y, "record_id": [f"p{row}" for row in range(len(x))]}
    pq.write_table(pa.table(table), office.settings.sources / "lists.parquet")
    shown = office.add("lists", "lists.parquet", columns={"features": ["ids"]})
    assert shown["status"] == "ready", shown["error"]
    with office.runtime.session() as session:
        key = session.scalars(select(place.Dataset.array_key).filter_by(name="lists")).one()
    assert np.array_equal(office.runtime.store.rows.open(key).rows, x)
    table["ids"][7] = table["ids"][7][:4]
    pq.write_table(pa.table(table), office.settings.sources / "uneven.parquet")
    shown = office.add("uneven", "uneven.parquet", columns={"features": ["ids"]})
    assert (shown["status"], "Row 8, column 'ids'" in shown["error"]) == ("failed", True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "tokens"}, ("input.options", "vocabulary")),
        ({"name": "tokens", "options": {"vocabulary": 1, "pad": 0}}, ("options.vocabulary",)),
        ({"name": "syllables"}, ("syllables", "features, image, table, text, tokens")),
    ],
)
def test_what_a_source_states_is_checked_when_it_is_asked_for(
    office: Office, given: dict[str, Any], words: tuple[str, ...]
) -> None:
    office.save("stated.npz", *sentences(30))
    for dry_run in (False, True):
        body = {"name": "never", "source": {"path": "stated.npz"}, "input": given}
        answer = office.client.post("/v1/datasets", json={**body, "dry_run": dry_run})
        assert_problem(answer, 422, *words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"architecture": {"name": "mlp"}}, ("mlp", "features or image or table", "tokens")),
        ({"architecture": {"name": "lenet5"}}, ("lenet5", "image")),
        ({"transform": {"scale": 0.5}}, ("tokens", "no transform")),
        (
            {"architecture": {"name": "mean_pool", "parameters": {"vocabulary": 50}}},
            ("vocabulary must be 40",),
        ),
    ],
)
def test_models_that_do_not_fit_the_kind_are_refused(
    trained: Office, given: dict[str, Any], words: tuple[str, ...]
) -> None:
    body = {"name": "other", "dataset": "texts", "architecture": {"name": "mean_pool"}, **given}
    assert_problem(trained.client.post("/v1/models", json=body), 422, *words)


def test_padding_changes_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package))
    kind = inputs.kind("tokens", TOKENS["options"])
    model = architectures.classifier(
        "mean_pool",
        {"vocabulary": VOCABULARY},
        None,
        kind=kind,
        generator=torch.Generator().manual_seed(0),
    )
    x = torch.from_numpy(sentences(8)[0])
    longer = torch.nn.functional.pad(x, (0, 5), value=PAD)
    assert torch.allclose(model(x), model(longer), atol=1e-6)
    assert kind.input.collate(x, kind.options)[0].dtype == torch.int64
