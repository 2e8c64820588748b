"""What uses a tokenizer or an encoder, so that it cannot be removed."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database.states import DatasetStatus, InspectionStatus
from service.ledger.database.tables import Dataset, DatasetInspection, Encoder, Model

#: Datasets that read no source any more.
_OVER = (DatasetStatus.FAILED, DatasetStatus.WITHDRAWN, DatasetStatus.PURGED)


def require_no_model(session: Session, digest: str) -> None:
    """Raise ``Conflict`` if a model that is not withdrawn is built on the encoder ``digest``."""
    named = session.scalar(
        select(Model.name)
        .where(
            Model.withdrawn_at.is_(None),
            Model.architecture["parameters"]["encoder"].as_string() == digest,
        )
        .order_by(Model.name)
        .limit(1)
    )
    if named is not None:
        raise Conflict(f"the model {named} is built on it; withdraw the model first")


def require_no_dataset(session: Session, option: str, digest: str) -> None:
    """Raise ``Conflict`` if a source that may be read names the file ``digest`` as its ``option``.

    That is a dataset that is not withdrawn (rows may be appended), or a dry run that waits.
    """
    named = session.scalar(
        select(Dataset.name)
        .where(
            Dataset.status.not_in(_OVER),
            or_(*(one == digest for one in _options(Dataset, option))),
        )
        .order_by(Dataset.name)
        .limit(1)
    )
    if named is not None:
        raise Conflict(f"the dataset {named} is read with it; delete the dataset first")
    waits = session.scalar(
        select(DatasetInspection.id)
        .where(
            DatasetInspection.status == InspectionStatus.WAITING,
            DatasetInspection.source["input"]["options"][option].as_string() == digest,
        )
        .limit(1)
    )
    if waits is not None:
        raise Conflict(
            "a dry run of a source that names it is waiting; try again later",
            retry_after_seconds=5,
        )


def require_no_encoder(session: Session, digest: str) -> None:
    """Raise ``Conflict`` if the tokenizer ``digest`` is that of an encoder."""
    named = session.scalar(
        select(Encoder.name)
        .where(Encoder.tokenizer_digest == digest)
        .order_by(Encoder.name)
        .limit(1)
    )
    if named is not None:
        raise Conflict(f"it is the tokenizer of the encoder {named}; delete the encoder first")


def _options(kind: type[Dataset], option: str) -> list[ColumnElement[str]]:
    """Return the option as the source gives it, and as the ready dataset has it."""
    return [
        kind.source["input"]["options"][option].as_string(),
        kind.input["options"][option].as_string(),
    ]
