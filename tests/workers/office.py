"""A service with its API, and a worker whose jobs a test calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.ledger.database import db, schema
from service.ledger.database.tables import Dataset, Model, Record, Version
from service.ledger.reports import verifications
from service.settings import Settings
from tests.service.api import callers
from tests.workers import place
from tests.workers.place import LENIENT
from workers.compute.process import ComputeProcess
from workers.jobs import encoders, ingest, pipeline, prepare, train
from workers.runtime import Runtime
from workers.schedule import catalogue

STATEMENT = "Random numbers; no person's data."
POLICY = {
    "max_wait_seconds": 0,
    "gates": LENIENT,
    "auto_consolidate": False,
    "on_accuracy_drop": "promote",
}


@dataclass
class Office:
    """A service with its API, and a worker's jobs."""

    settings: Settings
    runtime: Runtime
    client: TestClient

    def send(self, tokenizer: bytes) -> Any:
        """The answer to the upload of a tokenizer."""
        headers = {"Content-Type": "application/json"}
        return self.client.post("/v1/tokenizers", content=tokenizer, headers=headers)

    def add_encoder(self, name: str, folder: str | None = None) -> Any:
        """Check a directory of the data root; the encoder as it is shown then."""
        body = {"name": name, "source": {"path": folder or name}, "statement": STATEMENT}
        answer = self.client.post("/v1/encoders", json=body)
        assert answer.status_code == 202, answer.text
        encoders.run_due(self.runtime)
        return self.client.get(answer.headers["Location"]).json()

    def another(self, owner: str, compute: ComputeProcess | None = None, **changed: Any) -> Runtime:
        """Another worker, with settings changed; whoever asks for it kills its compute process."""
        settings = self.settings.model_copy(update=changed)
        compute = compute or ComputeProcess(device="cpu", threads=1)
        return Runtime(settings, self.runtime.engine, compute, owner=owner)

    def add(self, name: str, file: str, **given: Any) -> Any:
        """Ingest a file of the data root; the dataset as it is shown then."""
        body = {"name": name, "source": {"path": file}, **given}
        answer = self.client.post("/v1/datasets", json=body)
        assert answer.status_code == 202, answer.text
        ingest.run_due(self.runtime)
        return self.client.get(f"/v1/datasets/{name}").json()

    def train(self, model: str, dataset: str, architecture: str, **more: Any) -> None:
        """Create a model, train and prepare it; ``parameters`` and ``recipe`` may be given."""
        body = {
            "name": model,
            "dataset": dataset,
            "architecture": {"name": architecture, "parameters": more.get("parameters", {})},
            "recipe": more.get("recipe", {}),
            "policy": POLICY,
        }
        answer = self.client.post("/v1/models", json=body)
        assert answer.status_code == 201, answer.text
        prepare.describe_due(self.runtime)
        answer = self.client.post(f"/v1/models/{model}/training-runs", json={"seed": 1})
        assert answer.status_code == 202, answer.text
        train.run_due(self.runtime)
        prepare.run_due(self.runtime)

    def forget(self, dataset: str, *ids: str) -> Any:
        """Forget records; the request as it is shown then."""
        body = {"dataset": dataset, "record_ids": list(ids)}
        answer = self.client.post("/v1/deletion-requests", json=body)
        assert answer.status_code == 202, answer.text
        pipeline.run_due(self.runtime)
        return self.client.get(f"/v1/deletion-requests/{answer.json()['id']}").json()

    def stored(self, dataset: str) -> np.ndarray:
        """The array of a dataset's ingest."""
        with self.runtime.session() as session:
            key = session.scalars(select(Dataset.array_key).filter_by(name=dataset)).one()
        return np.asarray(self.runtime.store.rows.open(key).rows)

    def live(self, model: str) -> Version:
        with self.runtime.session() as session:
            found = session.scalars(select(Model).filter_by(name=model)).one()
            return session.get_one(Version, found.production_id)

    def training_rows(self, dataset: str, *, below: int) -> list[int]:
        """Rows of the train split that are not excluded, of the first ``below``."""
        with self.runtime.session() as session:
            wanted = (
                select(Record.row)
                .join(Dataset, Dataset.id == Record.dataset_id)
                .where(
                    Dataset.name == dataset,
                    Record.split == 0,
                    Record.excluded_revision.is_(None),
                    Record.row < below,
                )
            )
            return sorted(session.scalars(wanted))

    def verdict(self, version: Version) -> str:
        """The verdict of a version whose integrity gates passed."""
        with self.runtime.session() as session:
            found = verifications.of(session, session.get_one(Version, version.id))
        assert found is not None
        gates = {gate["gate"]: gate["outcome"] for gate in found.measured["gates"]}
        assert {gates[name] for name in ("changed", "finite", "lineage")} == {"passed"}
        return str(found.verdict)


@contextmanager
def opened(home: Path, compute: ComputeProcess) -> Iterator[Office]:
    """An office with its state in a directory; the compute process is shared and goes on."""
    settings = Settings(_env_file=None, state_dir=home, **place.SETTINGS)
    settings.sources.mkdir(parents=True)
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    runtime = Runtime(settings, engine, compute, owner="w0")
    catalogue.announce(runtime)
    try:
        with callers.application(settings) as app:
            yield Office(settings, runtime, callers.client(app))
    finally:
        engine.dispose()
