"""Versions trained elsewhere: let in only when they were trained without forgotten records."""

from __future__ import annotations

from datetime import datetime
from importlib import metadata

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, Unprocessable
from service.ledger import audit, requests, versions
from service.ledger.states import VERSION_MOVES, VersionStatus, check_move
from service.ledger.tables import Dataset, Model, Record, RequestRecord, Version

_SHOWN = 100


def check(session: Session, model: Model, *, data_revision: int, digest: str | None = None) -> None:
    """Raise unless weights trained on this revision of the dataset hold nothing forgotten.

    Stricter than for promoting: a record that a running batch has claimed counts as well, since
    the batch would be finished on a version that is no longer in production. With the ``digest``
    of the file, weights that are known here to hold forgotten records are refused, whatever
    revision they are said to be of; weights from elsewhere have only their sender's word.
    """
    dataset = session.scalars(
        select(Dataset).where(Dataset.id == model.dataset_id).with_for_update()
    ).one()
    if data_revision > dataset.revision:
        raise Unprocessable(
            f"dataset {dataset.name} is at revision {dataset.revision}; data_revision cannot be "
            "above it",
            field="query.data_revision",
        )
    blocking = _deletions_after(session, dataset, data_revision)
    if blocking:
        raise versions.Resurrection(
            f"records were forgotten after revision {data_revision} of dataset {dataset.name}; "
            f"train without them and import with data_revision={dataset.revision}, or start a "
            "training run here",
            deletion_requests=blocking,
            data_revision=dataset.revision,
        )
    if digest is not None:
        _refuse_known(session, model, digest)


def register(
    session: Session,
    model: Model,
    *,
    digest: str,
    size_bytes: int,
    data_revision: int,
    promote: bool | None,
    actor: str,
    now: datetime,
) -> Version:
    """A published version, an anchor of itself; without ``promote`` live if none is yet."""
    check(session, model, data_revision=data_revision, digest=digest)
    production = model.production_id
    version = versions.register(
        session,
        model,
        origin="imported",
        digest=digest,
        size_bytes=size_bytes,
        data_revision=data_revision,
        seed=0,
        code_version=metadata.version("unlearn"),
        now=now,
        actor=actor,
    )
    audit.append(
        session,
        actor=actor,
        action=audit.Action.VERSION_IMPORTED,
        subject=versions.subject(model, version),
        data={"digest": digest, "data_revision": data_revision},
    )
    # Requests that came before the model had anything to forget from now concern it too.
    requests.join(session, model, now=now)
    if promote or (promote is None and production is None):
        versions.promote(
            session,
            model,
            version,
            expected_production=production,
            reason="imported",
            actor=actor,
            now=now,
        )
    else:
        check_move(VERSION_MOVES, version.status, VersionStatus.PUBLISHED)
        version.status = VersionStatus.PUBLISHED
        version.published_at = now
        session.flush()
    return version


def refuse_download(session: Session, model: Model, version: Version) -> None:
    """Raise unless the version's weights may be handed out."""
    if version.status == VersionStatus.PURGED:
        raise Purged(f"the weights of version {version.number} of {model.name} were destroyed")
    versions.refuse_resurrection(session, model, version)
    if version.status in (VersionStatus.RETIRED, VersionStatus.REJECTED):
        raise Conflict(
            f"version {version.number} of {model.name} is {version.status} and is not handed "
            "out; download the production version"
        )


class Purged(Conflict):
    """The weights are destroyed; the row remains as history."""

    status = 410
    code = "purged"
    title = "It existed and was destroyed"


def _refuse_known(session: Session, model: Model, digest: str) -> None:
    twins = session.execute(
        select(Version, Model)
        .join(Model, Model.id == Version.model_id)
        .where(Version.digest == digest, Model.dataset_id == model.dataset_id)
    ).all()
    for twin, owner in twins:
        blocking = versions.contains_forgotten(session, owner, twin)
        if blocking:
            raise versions.Resurrection(
                f"this file is version {twin.number} of {owner.name}, which contains records "
                "forgotten since; start a training run to get weights without them",
                deletion_requests=blocking[:_SHOWN],
            )


def _deletions_after(session: Session, dataset: Dataset, data_revision: int) -> list[str]:
    """Ids of the requests by which training rows were excluded after the revision."""
    return list(
        session.scalars(
            select(RequestRecord.request_id)
            .join(
                Record,
                (Record.dataset_id == RequestRecord.dataset_id) & (Record.row == RequestRecord.row),
            )
            .where(
                Record.dataset_id == dataset.id,
                Record.split == versions.TRAIN_SPLIT,
                Record.excluded_revision > data_revision,
            )
            .distinct()
            .order_by(RequestRecord.request_id)
            .limit(_SHOWN)
        )
    )
