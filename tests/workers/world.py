"""A small world without computing, and what a compute process would answer in it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service.ledger.database import db
from service.ledger.database.states import RequestStatus, VersionStatus
from service.ledger.database.tables import DeletionRequest, Model, Record, Version
from service.ledger.registry import lineage, versions
from service.ledger.requests import lookup
from service.messages.parts import Saved
from service.messages.train import Answer as Trained
from service.messages.train import Curve
from service.messages.unlearn import Answer as Unlearned
from service.settings import Settings
from tests import factories
from tests.service import announcements
from tests.stored import save
from workers.compute.process import ComputeProcess
from workers.runtime import Runtime

ROWS = 120
#: Requests of more records wait for approval.
MOST_RECORDS = 3

POLICY = {
    "max_wait_seconds": 0,
    "max_records": 8,
    "purge_after_seconds": 0,
    "approval": {"max_records_per_request": MOST_RECORDS, "max_records_per_day": 100_000},
}

#: A verification that found nothing wrong.
PASSED: dict[str, Any] = {"verdict": "passed", "gates": [], "metrics": {}, "reasons": []}

_digests = itertools.count(1)


def digest() -> str:
    return f"f{next(_digests):063x}"  # none of those of the factories


@dataclass
class World:
    """Two datasets; on each a live model and one that was never trained."""

    engine: Engine
    settings: Settings
    datasets: list[str]
    models: list[int]
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    @classmethod
    def found(cls, engine: Engine, home: Path) -> World:
        settings = Settings(
            _env_file=None,
            state_dir=home,
            database_url=engine.url.render_as_string(hide_password=False),
            lease_seconds=60,
            max_attempts=1,
        )
        with db.session_factory(engine).begin() as session:
            announcements.announce(session)
            names, ids = [], []
            for _ in range(2):
                data = factories.dataset(session, rows=ROWS)
                names.append(data.name)
                for live in (True, False):
                    model = factories.model(session, data, policy=POLICY)
                    ids.append(model.id)
                    if live:
                        factories.version(session, model)
        return cls(engine, settings, names, ids)

    def worker(self, owner: str) -> Runtime:
        """A worker whose compute process is never started: nothing is computed."""
        return Runtime(
            self.settings, self.engine, ComputeProcess(device="cpu", threads=1), owner=owner
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with db.session_factory(self.engine).begin() as session:
            yield session


def _checkpoint(store: Path) -> Saved:
    """Weights that no other call has stored."""
    saved = save(store, {"weights": np.array([next(_digests)])}, {})
    return Saved(digest=saved.digest, size_bytes=saved.size_bytes)


def trained(store: Path) -> Trained:
    """What a compute process answers to a training that went well."""
    return Trained(
        checkpoint=_checkpoint(store),
        artifacts=[],
        curve=Curve(training_rows=1, validation_rows=1, epochs=[(1.0, 1.0, 0.5, None)]),
        notes={},
        comparison=None,
        accuracy_drop=False,
        timings={},
        verification=PASSED,
    )


def unlearned(
    store: Path,
    *,
    exact: bool,
    verification: dict[str, Any] = PASSED,
    retrain_because: Sequence[str] = (),
) -> Unlearned:
    """What a compute process answers to an update that went well, or as it says."""
    return Unlearned(
        checkpoint=_checkpoint(store),
        artifacts=[],
        is_anchor=exact,
        notes={},
        retrain_because=list(retrain_because),
        timings={},
        verification=verification,
    )


_LOST = {"gate": "accuracy", "concern": "utility", "outcome": "failed", "reason": "lower"}

STEPPED = partial(unlearned, exact=False)
RETRAINED = partial(unlearned, exact=True)
REJECTED = partial(
    unlearned, exact=False, verification=PASSED | {"verdict": "failed", "reasons": ["removal: no"]}
)
#: An exact version that lost accuracy.
INACCURATE = partial(
    unlearned, exact=True, verification=PASSED | {"verdict": "failed", "gates": [_LOST]}
)
#: A step of which memorised records may be left.
MEMORISED = partial(
    unlearned,
    exact=False,
    verification=PASSED | {"verdict": "no_power", "memorised": {"left": True}},
)
DRIFTED = partial(unlearned, exact=False, retrain_because=["drift: too much"])


def missed(session: Session) -> list[str]:
    """Requests that are completed although a version that is not withdrawn holds their rows."""
    found = []
    for version in session.scalars(select(Version).filter_by(status=VersionStatus.PUBLISHED)):
        model = session.get_one(Model, version.model_id)
        inside = set(
            session.scalars(
                select(Record.row).where(
                    Record.dataset_id == model.dataset_id,
                    lineage.contained(session, version),
                )
            )
        )
        done = select(DeletionRequest.id).filter_by(
            dataset_id=model.dataset_id, status=RequestStatus.COMPLETED
        )
        for request_id in session.scalars(done):
            if inside.intersection(lookup.rows(session, request_id)):
                found.append(f"{versions.subject(model, version)} holds {request_id}")
    return found
