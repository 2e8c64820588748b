"""Refuse the use of what was withdrawn: 410, with what to do instead.

Callers that write have locked the row, or read it again under a lock before serving anything.
"""

from __future__ import annotations

from service.errors import Withdrawn
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Dataset, Model, Version


def require_dataset(dataset: Dataset) -> None:
    """Raise ``Withdrawn`` for a dataset that was withdrawn."""
    if dataset.withdrawn_at is not None:
        raise Withdrawn(
            f"dataset {dataset.name} was withdrawn: its rows are destroyed, and nothing of it is "
            "used any more; ingest the data under a new name if you may keep it"
        )


def require_model(model: Model) -> None:
    """Raise ``Withdrawn`` for a model that was withdrawn."""
    if model.withdrawn_at is not None:
        raise Withdrawn(
            f"model {model.name} was withdrawn: nothing of it is served, trained or imported any "
            "more; create a new model"
        )


def require_version(model: Model, version: Version) -> None:
    """Raise ``Withdrawn`` for a version that was withdrawn, by itself or with its model."""
    require_model(model)
    if version.status == VersionStatus.WITHDRAWN:
        raise Withdrawn(
            f"version {version.number} of {model.name} was withdrawn: it is not handed out and "
            "never goes live again; use the production version, or train the model"
        )
