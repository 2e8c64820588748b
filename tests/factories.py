"""Small functions that make rows of the ledger, with what a test does not care about filled in."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.ledger.database import ids
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    ErasureStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)
from service.ledger.database.tables import (
    Artifact,
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestRecord,
    TrainingRun,
    Verification,
    Version,
)
from service.ledger.registry import lineage
from service.ledger.registry.datasets import SPLITS
from service.ledger.selection.digests import Digester
from unlearning import inputs

#: The moment at which tests happen unless they say otherwise.
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

DIGESTER = Digester((b"a-subject-key-for-tests-only-0123456789",))

_numbers = itertools.count(1)


def dataset(
    session: Session,
    *,
    rows: int = 12,
    name: str | None = None,
    subjects: Sequence[str | None] | None = None,
    labels: Sequence[int] | None = None,
    splits: Sequence[int] | None = None,
    **columns: Any,
) -> Dataset:
    """A ready dataset whose rows are records ``r0``, ``r1``, …; all training rows by default."""
    shape, dtype = columns.get("shape") or [1, 8, 8], columns.get("dtype") or "uint8"
    counts = Counter(SPLITS[split] for split in splits or [0] * rows)
    made = Dataset(
        name=name or f"dataset-{next(_numbers)}",
        **{
            "status": DatasetStatus.READY,
            "source": {"kind": "npz"},
            "array_key": "a" * 64,
            "rows": rows,
            "shape": [1, 8, 8],
            "dtype": "uint8",
            "input": inputs.facts(inputs.kind(inputs.of_rows(shape), {}), shape, dtype),
            "classes": 3,
            "split_rows": {name: counts[name] for name in SPLITS},
            "record_id_origin": Origin.SOURCE,
            "subject_id_origin": Origin.SOURCE if subjects else Origin.ABSENT,
            "revision": 0,
            "created_at": NOW,
            "ready_at": NOW,
            **columns,
        },
    )
    session.add(made)
    session.flush()
    for row in range(rows):
        subject = subjects[row] if subjects else None
        session.add(
            Record(
                dataset_id=made.id,
                row=row,
                record_id=f"r{row}",
                subject_digest=None if subject is None else DIGESTER.subject(subject),
                label=labels[row] if labels else row % 3,
                split=splits[row] if splits else 0,
            )
        )
    session.flush()
    return made


def model(session: Session, data: Dataset, *, name: str | None = None, **columns: Any) -> Model:
    """A model on the dataset, without versions."""
    made = Model(
        name=name or f"model-{next(_numbers)}",
        dataset_id=data.id,
        **{
            "architecture": {"name": "mlp", "parameters": {}},
            "input": {"name": "image", "options": {}},
            "transform": {"scale": 1 / 16, "mean": [0.0], "std": [1.0]},
            "recipe": {},
            "policy": {},
            "parameters": {"0.weight": [[3, 64], "float32"]},
            "tied": [],
            "created_at": NOW,
            **columns,
        },
    )
    session.add(made)
    session.flush()
    return made


def training_run(session: Session, owner: Model, **columns: Any) -> TrainingRun:
    """A completed first training."""
    made = TrainingRun(
        **{
            "id": ids.new("run"),
            "model_id": owner.id,
            "status": RunStatus.COMPLETED,
            "reason": "initial",
            "seed": 1,
            "data_revision": 0,
            "progress": {},
            "created_by": "key:key_test",
            "created_at": NOW,
            "finished_at": NOW,
            **columns,
        }
    )
    session.add(made)
    session.flush()
    return made


def version(
    session: Session,
    owner: Model,
    *,
    parent: Version | None = None,
    production: bool = True,
    **columns: Any,
) -> Version:
    """A published version with the next number: an anchor, or unlearned from ``parent``."""
    number = next(_numbers)
    latest = session.query(Version).filter_by(model_id=owner.id).count()
    made = Version(
        **{
            "model_id": owner.id,
            "number": latest + 1,
            "status": VersionStatus.PUBLISHED,
            "origin": "trained" if parent is None else "unlearned",
            "parent_id": None if parent is None else parent.id,
            "anchor_id": None if parent is None else parent.anchor_id,
            "data_revision": 0 if parent is None else parent.data_revision,
            "data_rows": (
                session.get_one(Dataset, owner.dataset_id).rows
                if parent is None
                else parent.data_rows
            ),
            "clean_revision": 0 if parent is None else parent.clean_revision,
            "digest": f"{number:064x}",
            "size_bytes": 1000,
            "method": None if parent is None else "iau",
            "options": {},
            "seed": 7,
            "code_version": "0.1.0",
            "notes": {},
            "timings": {"update": 0.5},
            "created_at": NOW,
            "published_at": NOW,
            **columns,
        }
    )
    session.add(made)
    session.flush()
    if production:
        owner.production_id = made.id
        session.flush()  # models are locked before versions
    if made.anchor_id is None:
        made.anchor_id = made.id
    lineage.place(session, owner, made, None if made.anchor_id == made.id else parent)
    session.flush()
    return made


def request(
    session: Session, data: Dataset, *, rows: Sequence[int] = (0,), **columns: Any
) -> DeletionRequest:
    """An accepted request that matched these rows; no erasures yet."""
    made = DeletionRequest(
        **{
            "id": ids.new("dr"),
            "dataset_id": data.id,
            "kind": "records",
            "status": RequestStatus.ACCEPTED,
            "principal": "key_test",
            "matched": len(rows),
            "already_forgotten": 0,
            "not_found": 0,
            "created_at": NOW,
            "due_at": NOW + timedelta(days=31),
            "expected_by": NOW + timedelta(minutes=1),
            **columns,
        }
    )
    if made.kind != "class" and made.listed_by is None:
        made.listed_by = made.id
    session.add(made)
    session.flush()
    for row in rows:
        session.add(RequestRecord(request_id=made.id, dataset_id=data.id, row=row))
    session.flush()
    return made


def erasure(session: Session, asked: DeletionRequest, owner: Model, **columns: Any) -> Erasure:
    """The request's pending share of the work on the model."""
    made = Erasure(
        **{
            "request_id": asked.id,
            "model_id": owner.id,
            "status": ErasureStatus.PENDING,
            "created_at": NOW,
            **columns,
        }
    )
    session.add(made)
    session.flush()
    return made


def batch(
    session: Session, owner: Model, base: Version, *, rows: Sequence[int] = (0,), **columns: Any
) -> Batch:
    """A running batch on ``base`` that forgets these rows."""
    made = Batch(
        **{
            "id": ids.new("b"),
            "model_id": owner.id,
            "status": BatchStatus.RUNNING,
            "kind": "records",
            "base_version_id": base.id,
            "seed": 7,
            "fence": 1,
            "records": len(rows),
            "created_at": NOW,
            **columns,
        }
    )
    session.add(made)
    session.flush()
    session.add_all(BatchRecord(batch_id=made.id, row=row) for row in rows)
    session.flush()
    return made


def unlearned(
    session: Session, owner: Model, base: Version, asked: Sequence[DeletionRequest], **columns: Any
) -> Version:
    """A promoted version made by a completed batch of these requests."""
    rows = sorted(
        row
        for item in asked
        for (row,) in session.query(RequestRecord.row).filter_by(
            request_id=item.listed_by or item.id
        )
    )
    done = batch(
        session,
        owner,
        base,
        rows=sorted(set(rows)),
        kind="class" if any(item.kind == "class" for item in asked) else "records",
        status=BatchStatus.COMPLETED,
        finished_at=NOW,
    )
    made = version(session, owner, parent=base, batch_id=done.id, **columns)
    done.version_id = made.id
    for item in asked:
        erasure(
            session,
            item,
            owner,
            status=ErasureStatus.COMPLETED,
            batch_id=done.id,
            version_id=made.id,
            completed_at=NOW,
        )
        item.status = RequestStatus.COMPLETED
        item.completed_at = NOW
    session.flush()
    return made


def artifact(session: Session, owner: Version, *, kind: str = "caches", **columns: Any) -> Artifact:
    """Internal state of a version that still exists."""
    made = Artifact(
        **{
            "version_id": owner.id,
            "kind": kind,
            "digest": f"{next(_numbers):064x}",
            "size_bytes": 100,
            "notes": {},
            "created_at": NOW,
            **columns,
        }
    )
    session.add(made)
    session.flush()
    return made


def verification(
    session: Session,
    owner: Version,
    *,
    verdict: str = "passed",
    measured: Any = None,
    set_changes: Any = None,
) -> Verification:
    """A stored verification of a version."""
    made = Verification(
        version_id=owner.id,
        verdict=verdict,
        measured=measured or {},
        set_changes=set_changes,
        created_at=NOW,
    )
    session.add(made)
    session.flush()
    return made
