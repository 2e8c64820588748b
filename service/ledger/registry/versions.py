"""Versions of a model: register, promote, retire."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.ledger.audit import chain, machines
from service.ledger.database import db, locks, taken
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import (
    AliasMove,
    Dataset,
    Import,
    Model,
    Version,
)
from service.ledger.obligations import shares
from service.ledger.registry import forgotten, lineage, segments, standing


class ProductionMoved(Conflict):
    """The alias ``production`` moved after it was read."""

    code = "production-moved"


def get(session: Session, model: Model, number: int) -> Version:
    """Return version ``number`` of the model; raise ``NotFound`` that names the latest one."""
    found = session.scalar(
        select(Version).where(Version.model_id == model.id, Version.number == number)
    )
    if found is None:
        latest = _latest_number(session, model.id)
        raise NotFound(
            f"model {model.name} has no version {number}; its latest is {latest}"
            if latest
            else f"model {model.name} has no versions yet; start a training run"
        )
    return found


def register(
    session: Session,
    model: Model,
    *,
    origin: str,
    digest: str,
    size_bytes: int,
    data_revision: int,
    seed: int,
    code_version: str,
    now: datetime,
    actor: str,
    parent: Version | None = None,
    anchor_id: int | None = None,
    record_list_id: str | None = None,
    data_rows: int | None = None,
    training_run_id: str | None = None,
    batch_id: str | None = None,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
    timings: dict[str, Any] | None = None,
    mark: str | None = None,
) -> Version:
    """Register a candidate with the next number; its own anchor unless ``anchor_id`` is given.

    ``data_rows``: how many rows the dataset had when the anchor was trained; None: as many as at
    ``data_revision``.
    """
    lock(session, model)
    standing.require_model(model)
    if data_rows is None:
        dataset = session.get_one(Dataset, model.dataset_id)
        data_rows = segments.rows_at(session, dataset, data_revision)
    version = Version(
        model_id=model.id,
        number=_latest_number(session, model.id) + 1,
        status=VersionStatus.CANDIDATE,
        origin=origin,
        parent_id=None if parent is None else parent.id,
        anchor_id=anchor_id,
        data_revision=data_revision,
        record_list_id=record_list_id,
        data_rows=data_rows,
        clean_revision=data_revision,
        digest=digest,
        size_bytes=size_bytes,
        training_run_id=training_run_id,
        batch_id=batch_id,
        method=method,
        options=options or {},
        seed=seed,
        code_version=code_version,
        notes=notes or {},
        timings=timings or {},
        mark=mark,
        created_at=now,
    )
    lineage.place(session, model, version, None if anchor_id is None else parent)
    session.add(version)
    session.flush()
    taken.keep(session, _made_key(version), version)
    lineage.begin_line(version)
    if anchor_id is None:
        version.anchor_id = version.id
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_REGISTERED,
        subject=subject(model, version),
        data={"origin": origin, "digest": digest, "batch": batch_id, "run": training_run_id},
    )
    return version


def lock(session: Session, model: Model) -> None:
    """Lock the model, so that its versions and production cannot change in the transaction.

    Its dataset is locked first if nothing is live yet: requests that are being recorded must find
    the model live, or be found by the promotion.
    """
    if model.production_id is None:
        locks.dataset(session, model.dataset_id, locks.Hold.PUBLICATION)
    locks.models(session, [model.id])


def lock_to_measure(session: Session, model: Model) -> None:
    """Lock as ``lock`` does, and the dataset in any case: what is shown has a key to it."""
    if model.production_id is not None:
        locks.dataset(session, model.dataset_id, locks.Hold.INTAKE)
    lock(session, model)


def subject(model: Model, version: Version) -> str:
    """Return the name of a version in the audit chain."""
    return f"version:{model.name}/{version.number}"


def refuse_unmeasured(session: Session, model: Model, version: Version) -> None:
    """Raise ``Conflict`` while a worker has not measured an imported version."""
    waiting = session.get(Import, version.id) if version.origin == "imported" else None
    if waiting is not None and waiting.finished_at is None:
        raise Conflict(
            f"version {version.number} of {model.name} was imported and is still to be measured by "
            f"a worker; GET /v1/models/{model.name}/versions/{version.number} shows how far it is",
            retry_after_seconds=5,
        )


def publish(session: Session, version: Version, *, now: datetime) -> None:
    """Publish the version, to be downloaded and perhaps promoted later; it does not go live."""
    machines.versions.move(version, VersionStatus.PUBLISHED)
    version.published_at = now
    session.flush()


def promote(
    session: Session,
    model: Model,
    version: Version,
    *,
    expected_production: int | None,
    reason: str,
    actor: str,
    now: datetime,
) -> None:
    """Point ``production`` at the version, if it is still what the caller read.

    Refuse versions that contain forgotten records or are not measured yet, and retire every other
    version that contains forgotten records. A model that goes live for the first time gets its
    share of every open request.
    """
    lock(session, model)
    if not made_here(session, version):
        session.refresh(version)
    standing.require_version(model, version)
    refuse_unmeasured(session, model, version)
    if model.production_id is None:
        forgotten.refuse(session, model, version)
        shares.join(session, model, data_revision=version.data_revision, now=now)
    others = _at_hand(session, model, keep=version)
    holding = forgotten.holding(session, model, [version, *others])
    if version.id in holding:
        forgotten.refuse(session, model, version)
    if model.production_id != expected_production:
        raise ProductionMoved(f"production of {model.name} has moved meanwhile; look again")
    if version.status != VersionStatus.PUBLISHED:
        machines.versions.move(version, VersionStatus.PUBLISHED)
        version.published_at = now
    model.production_id = version.id
    session.flush()
    session.expire(model, ["production"])
    session.add(
        AliasMove(
            model_id=model.id,
            version_id=version.id,
            previous_id=expected_production,
            reason=reason,
            moved_by=actor,
            moved_at=now,
        )
    )
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_PROMOTED,
        subject=subject(model, version),
        data={"reason": reason, "digest": version.digest},
    )
    _retire_those(session, model, others, holding, actor=actor, now=now)


def require_production(session: Session, version: Version) -> Model:
    """Raise ``ProductionMoved`` unless the version is live; keep it live for the transaction.

    Return its model.
    """
    [model] = locks.models(session, [version.model_id])
    if model.production_id != version.id:
        raise ProductionMoved(f"production of {model.name} has moved meanwhile; look again")
    return model


def retire_containing(
    session: Session, model: Model, *, keep: Version | None, actor: str, now: datetime
) -> list[Version]:
    """Retire every version but ``keep`` that contains forgotten records.

    ``keep`` is live, or about to be. A candidate that was trained or imported later than the anchor
    of ``keep`` stays: it replaces that anchor once a batch has applied what it owes. An older one
    is superseded by its own successor, or by a retrain that never saw the records. If nothing is
    live (None), no batch is left to apply anything.
    """
    others = _at_hand(session, model, keep=keep)
    holding = forgotten.holding(session, model, others)
    return _retire_those(session, model, others, holding, actor=actor, now=now)


def _at_hand(session: Session, model: Model, *, keep: Version | None) -> Sequence[Version]:
    """Return versions but ``keep`` that are served, may become live, or are kept after a refusal.

    Candidates that catch up and are later than the anchor of ``keep`` are left out.
    """
    wanted = select(Version).where(
        Version.model_id == model.id,
        Version.status.in_(
            [VersionStatus.PUBLISHED, VersionStatus.REJECTED, VersionStatus.CANDIDATE]
        ),
        # A version that is still to be measured owes deletions, as a training does.
        ~exists().where(Import.version_id == Version.id, Import.finished_at.is_(None)),
    )
    if keep is not None:
        anchor = session.get_one(Version, keep.anchor_id)
        later = and_(catching_up(), Version.number > anchor.number)
        wanted = wanted.where(Version.id != keep.id, ~later)
    return session.scalars(wanted).all()


def _retire_those(
    session: Session,
    model: Model,
    others: Sequence[Version],
    holding: Collection[int],
    *,
    actor: str,
    now: datetime,
) -> list[Version]:
    containing = [other for other in others if other.id in holding]
    for version in containing:
        retire(session, model, version, actor=actor, now=now)
    return containing


def catching_up() -> ColumnElement[bool]:
    """Return SQL: ``Version`` was trained or imported and could not go live at once.

    It owes deletions that were completed meanwhile.
    """
    measured = exists().where(Import.version_id == Version.id, Import.finished_at.is_not(None))
    return and_(
        db.among(Version.status, VersionStatus.CANDIDATE),
        Version.anchor_id == Version.id,
        or_(Version.training_run_id.is_not(None), measured),
    )


def retire(session: Session, model: Model, version: Version, *, actor: str, now: datetime) -> None:
    """Take a version that contains forgotten records out of use."""
    machines.versions.move(version, VersionStatus.RETIRED)
    version.retired_at = now
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_RETIRED,
        subject=subject(model, version),
        data={"because": "contains forgotten records"},
    )


def reject(session: Session, model: Model, version: Version, *, verdict: str, actor: str) -> None:
    """Reject a version whose verification failed: it is kept and never promoted."""
    machines.versions.move(version, VersionStatus.REJECTED)
    lineage.leave_line(version)
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_REJECTED,
        subject=subject(model, version),
        data={"verdict": verdict},
    )


def _latest_number(session: Session, model_id: int) -> int:
    return session.scalar(select(func.max(Version.number)).where(Version.model_id == model_id)) or 0


def made_here(session: Session, version: Version) -> bool:
    """Return whether this transaction registered the version, so that no other one has seen it."""
    return taken.find(session, _made_key(version)) is not None


def _made_key(version: Version) -> taken.Key:
    return ("made", Version, version.id)
