"""A small service without its door: ledger, store and the recipes of a worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store.protocols import Array
from service.ledger.batches import leases
from service.ledger.database import db, schema
from service.ledger.database.states import AppendStatus, BatchStatus
from service.ledger.database.tables import (
    AliasMove,
    Batch,
    BatchRecord,
    Dataset,
    DatasetAppend,
    DeletionRequest,
    Erasure,
    Model,
    Version,
)
from service.ledger.registry import appends, datasets, models
from service.ledger.registry.policy import Margins, Policy
from service.ledger.requests import intake
from service.ledger.selection.matching import Ask
from service.ledger.training import runs
from service.settings import Settings
from workers.compute.process import ComputeProcess
from workers.demo import digits as demo_digits
from workers.jobs import append, claiming, ingest, pipeline, prepare, train
from workers.runtime import Runtime
from workers.schedule import catalogue

#: Quick to fail, quick to try again.
SETTINGS = {
    "threads": 1,
    "device": "cpu",
    "lease_seconds": 30,
    "max_attempts": 2,
    "backoff_seconds": 0,
    "orphan_grace_seconds": 1,
}


#: What a test of the wiring needs, so as not to depend on how well a method does on a tiny network.
LENIENT = {
    "audit_accuracy_drop": 1.0,
    "audit_accuracy_drop_since_anchor": 1.0,
    "retain_accuracy_drop": 1.0,
    "class_accuracy": 0.9,
    "membership_auc": 0.5,
    "forget_accuracy": 1.0,
    "large_losses": 1.0,
    "refit_membership": 0.5,
    "relearn_time": 0.0,
    "audit_membership": 0.5,
    "calibrated_excess": 0.5,
}


@dataclass
class Place:
    """A service on the digits with the model ``m`` (a small network); fault points can be armed."""

    settings: Settings
    runtime: Runtime
    faults: Path

    def arm(self, point: str, action: str) -> None:
        """Have the next process at this point do that."""
        (self.faults / point).write_text(action)

    def armed(self, point: str) -> bool:
        return (self.faults / point).exists()

    def ask(self, *rows: int) -> str:
        """A deletion request for these training rows; its id."""
        names = tuple(f"digit-{row:04d}" for row in rows)
        return self._record(kind="records", record_ids=names)

    def ask_for_class(self, label: int) -> str:
        """A deletion request for a digit; its id."""
        return self._record(kind="class", label=label)

    def _record(self, **asked: Any) -> str:
        with self.runtime.session() as session:
            receipt = intake.record(
                session,
                Ask(dataset=session.scalar(select(Dataset.name)), **asked),
                principal="key_test",
                digester=self.runtime.digester,
                now=self.runtime.now(),
            )
        return str(receipt.answer["id"])

    def work(self) -> None:
        """Unlearn and erase all that is due."""
        pipeline.run_due(self.runtime)

    @contextmanager
    def begun(self) -> Iterator[tuple[leases.Held, claiming.Claimed]]:
        """Claim the batch that is due; the lease that is held for the block, and the claim."""
        with claiming.begun(self.runtime, self.model().id, trains=False) as found:
            assert found is not None
            yield found

    def second(self) -> Runtime:
        """Another worker of the same service (with the same compute process)."""
        return Runtime(self.settings, self.runtime.engine, self.runtime.compute, owner="w2")

    def request(self, request_id: str) -> DeletionRequest:
        with self.runtime.session() as session:
            return session.get_one(DeletionRequest, request_id)

    def share(self, request_id: str) -> Erasure:
        with self.runtime.session() as session:
            return session.scalars(select(Erasure).filter_by(request_id=request_id)).one()

    def model(self) -> Model:
        with self.runtime.session() as session:
            return session.scalars(select(Model)).one()

    def live(self) -> Version:
        with self.runtime.session() as session:
            model = session.scalars(select(Model)).one()
            return session.get_one(Version, model.production_id)

    def versions(self) -> list[Version]:
        with self.runtime.session() as session:
            return list(session.scalars(select(Version).order_by(Version.number)))

    def batches(self) -> list[Batch]:
        with self.runtime.session() as session:
            return list(session.scalars(select(Batch).order_by(Batch.id)))

    def moves(self) -> list[AliasMove]:
        with self.runtime.session() as session:
            return list(session.scalars(select(AliasMove).order_by(AliasMove.id)))

    def forgotten(self) -> list[int]:
        """Every row that a completed batch forgot, as often as it was."""
        with self.runtime.session() as session:
            rows = session.scalars(
                select(BatchRecord.row)
                .join(Batch, Batch.id == BatchRecord.batch_id)
                .where(Batch.status == BatchStatus.COMPLETED)
                .order_by(BatchRecord.row)
            )
            return list(rows)

    def array(self) -> Array:
        with self.runtime.session() as session:
            key = session.scalar(select(Dataset.array_key))
        return self.runtime.store.rows.open(key)

    def training_rows(self) -> list[int]:
        return np.flatnonzero(np.asarray(self.array().splits) == 0).tolist()

    def damage(self, kind: str, digest: str, name: str = "tensors.safetensors") -> bytes:
        """Flip one byte in the middle of a stored file; its bytes before."""
        file = self.settings.store / kind / digest / name
        before = file.read_bytes()
        after = bytearray(before)
        after[len(after) // 2] ^= 0xFF
        file.chmod(0o644)
        file.write_bytes(after)
        return before

    def spoil_label(self, row: int) -> None:
        """Put the row's stored label out of range, so that computations that read it fail."""
        labels = self.settings.store / "arrays" / self.array().key / "labels.npy"
        stored = np.load(labels)
        stored[row] = 99
        labels.chmod(0o644)
        np.save(labels, stored)

    def change_policy(self, **values: object) -> None:
        with self.runtime.session() as session:
            model = session.scalars(select(Model)).one()
            model.policy = Policy.model_validate({**model.policy, **values}).model_dump(mode="json")

    def grow(self, rows: int, *, known: str) -> None:
        """Append digits ``more-000``, …: two thirds for training; every tenth is of ``known``.

        The others are of ``newcomer-0`` to ``newcomer-8``.
        """
        digits = demo_digits.load()
        chosen = np.random.default_rng(3).permutation(len(digits.y))[:rows]
        train, rest = rows * 2 // 3, rows // 8
        np.savez(
            self.settings.sources / "more.npz",
            x=np.minimum(digits.x[chosen] + 1, 16),
            y=digits.y[chosen],
            record_id=np.array([f"more-{n:03d}" for n in range(rows)]),
            subject_id=np.array(
                [known if n % 10 == 0 else f"newcomer-{n % 10 - 1}" for n in range(rows)]
            ),
            split=np.array(
                ["train"] * train + ["validation"] * rest + ["audit"] * (rows - train - rest)
            ),
        )
        with self.runtime.session() as session:
            made = appends.create(
                session,
                session.scalars(select(Dataset)).one(),
                source={"path": "more.npz"},
                actor="key:test",
                now=self.runtime.now(),
            )
        append.run_due(self.runtime)
        with self.runtime.session() as session:
            done = session.get_one(DatasetAppend, made.id)
        assert (done.status, done.rows, done.error) == (AppendStatus.COMPLETED, rows, None)

    def close(self) -> None:
        """Close the database; the compute process is shared and goes on."""
        self.runtime.engine.dispose()


#: A small network that is trained quickly.
SMALL: Mapping[str, Any] = {
    "architecture": "mlp",
    "parameters": {"hidden": [16]},
    "transform": {"scale": 1 / 16},
    "recipe": {"epochs": 12, "learning_rate": 0.01, "alpha": 0},
}


def found(
    home: Path,
    compute: ComputeProcess,
    *,
    digits: demo_digits.Digits | None = None,
    network: Mapping[str, Any] = SMALL,
    **changed: object,
) -> Place:
    """Ingest the digits, train ``m`` on them, prepare its anchor."""
    settings = Settings(_env_file=None, state_dir=home, **{**SETTINGS, **changed})
    settings.sources.mkdir(parents=True)
    (digits or demo_digits.load()).write(settings.sources / demo_digits.FILE)
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    runtime = Runtime(settings, engine, compute, owner="w0")
    catalogue.announce(runtime)
    with runtime.session() as session:
        datasets.create(
            session,
            "digits",
            source={"path": demo_digits.FILE},
            actor="key:test",
            now=runtime.now(),
        )
    ingest.run_due(runtime)
    with runtime.session() as session:
        _create_model(session, runtime, network)
    prepare.describe_due(runtime)
    with runtime.session() as session:
        model = session.scalars(select(Model)).one()
        runs.create(session, model, seed=1, actor="key:test", now=runtime.now())
    train.run_due(runtime)
    prepare.run_due(runtime)
    return Place(settings, runtime, home)


def copied(home: Path, copy: Path, compute: ComputeProcess, faults: Path) -> Place:
    """A copy of the service in ``home``, to be worked on and broken."""
    shutil.copytree(home, copy)
    settings = Settings(_env_file=None, state_dir=copy, **SETTINGS)
    runtime = Runtime(settings, db.engine(settings.database), compute, owner="w1")
    return Place(settings, runtime, faults)


def _create_model(session: Session, runtime: Runtime, network: Mapping[str, Any]) -> None:
    models.create(
        session,
        "m",
        dataset="digits",
        architecture=network["architecture"],
        parameters=network["parameters"],
        transform=network["transform"],
        recipe=network["recipe"],
        # What a retrain's seed costs it is held in the tests of that alone.
        # What margins do is in theirs.
        policy=Policy(
            max_wait_seconds=0,
            purge_after_seconds=0,
            on_accuracy_drop="promote",
            margins=Margins(splits=0),
        ),
        actor="key:test",
        now=runtime.now(),
    )
