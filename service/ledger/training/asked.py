"""The revision that was given for a training run: it takes the rows that the dataset had then.

What was excluded since stays out all the same, so the revision that counts for exclusions is the
one at which the run begins (``TrainingRun.data_revision``).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from service.errors import Conflict, Unprocessable
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset, Model, TrainingRun
from service.ledger.registry import segments

_KEY = "asked"


def require(session: Session, model: Model, revision: int) -> None:
    """Raise an error unless the model's dataset has had this revision."""
    dataset = session.get_one(Dataset, model.dataset_id)
    if dataset.status != DatasetStatus.READY:
        raise Conflict(
            f"dataset {dataset.name} is {dataset.status} and has no revision to train on yet; wait "
            "until it is ready, or leave data_revision out"
        )
    if revision > dataset.revision:
        raise Unprocessable(
            f"dataset {dataset.name} is at revision {dataset.revision}; data_revision cannot be "
            "above it",
            field="data_revision",
        )


def remembered(revision: int | None) -> dict[str, Any] | None:
    """Return ``TrainingRun.set_changes`` of a run before it begins; None: no revision was given."""
    return None if revision is None else {_KEY: revision}


def revision(run: TrainingRun) -> int | None:
    """Return the revision that was given for a run; None: it takes all rows."""
    found: int | None = (run.set_changes or {}).get(_KEY)
    return found


def rows(session: Session, dataset: Dataset, run: TrainingRun, *, begun: int) -> int:
    """Return how many of the dataset's first rows a run takes that began at revision ``begun``."""
    given = revision(run)
    return segments.rows_at(session, dataset, begun if given is None else given)
