"""Lists of what is withdrawn, which a tombstone list keeps from being served again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Dataset, Model, Version


class ListedVersion(BaseModel):
    """A version that was withdrawn by itself; those of a withdrawn model are not listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    number: int
    digest: str


class Withdrawals(BaseModel):
    """What was withdrawn; empty in lists made before there were withdrawals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    versions: tuple[ListedVersion, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is anything in it."""
        return bool(self.datasets or self.models or self.versions)


NONE = Withdrawals()


def of_ledger(session: Session) -> Withdrawals:
    """Return what is withdrawn in the ledger."""
    datasets = select(Dataset.name).where(Dataset.withdrawn_at.is_not(None))
    models = select(Model.name).where(Model.withdrawn_at.is_not(None))
    versions = (
        select(Model.name, Version.number, Version.digest)
        .join(Version, Version.model_id == Model.id)
        .where(Model.withdrawn_at.is_(None), Version.withdrawn_at.is_not(None))
        .order_by(Model.name, Version.number)
    )
    return Withdrawals(
        datasets=tuple(session.scalars(datasets.order_by(Dataset.name))),
        models=tuple(session.scalars(models.order_by(Model.name))),
        versions=tuple(
            ListedVersion(model=model, number=number, digest=digest)
            for model, number, digest in session.execute(versions)
        ),
    )


def served_again(session: Session, listed: Withdrawals) -> Withdrawals:
    """Return what is withdrawn in the list and in service in the ledger.

    Versions are compared by digest: after a restore, numbers are assigned again.
    """
    datasets = select(Dataset.name).where(
        Dataset.name.in_(listed.datasets), Dataset.withdrawn_at.is_(None)
    )
    models = select(Model.name).where(Model.name.in_(listed.models), Model.withdrawn_at.is_(None))
    versions = (
        select(Model.name, Version.digest)
        .join(Version, Version.model_id == Model.id)
        .where(
            Version.digest.in_([one.digest for one in listed.versions]),
            Version.withdrawn_at.is_(None),
        )
    )
    known = {(model, digest) for model, digest in session.execute(versions)}
    return Withdrawals(
        datasets=tuple(session.scalars(datasets.order_by(Dataset.name))),
        models=tuple(session.scalars(models.order_by(Model.name))),
        versions=tuple(one for one in listed.versions if (one.model, one.digest) in known),
    )
