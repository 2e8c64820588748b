"""Withdrawals: an operator takes a version, a model or a dataset out of service for good.

From that transaction on it is never served, trained or imported, and this cannot be undone. Workers
destroy it later (``purges``). Workers that compute on it are stopped by revoking their leases: the
computation is killed at the next renewal, and its writes are refused.

A model of which nothing is live holds nothing that could be deleted: its open erasures are
complete, and versions that still contain the records are retired as after any other erasure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.audit import chain, machines
from service.ledger.batches import execution, holds, leases
from service.ledger.database import db, locks
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    VersionStatus,
)
from service.ledger.database.tables import AliasMove, Batch, Dataset, Model, TrainingRun, Version
from service.ledger.destruction import releases
from service.ledger.registry import appends, versions
from service.ledger.registry.policy import Policy
from service.ledger.training import runs

#: When the weights are destroyed: after the policy's window, or as soon as possible.
Purge = Literal["after_window", "now"]

#: What happens to models in service when their dataset is withdrawn.
Models = Literal["keep", "withdraw"]

_GONE = (VersionStatus.WITHDRAWN, VersionStatus.PURGED)


class ModelsInUse(Conflict):
    """Models that were trained on the dataset have not been withdrawn."""

    code = "models-in-use"


def withdraw_version(
    session: Session,
    model: Model,
    version: Version,
    *,
    successor: Version | None = None,
    purge: Purge = "after_window",
    actor: str,
    now: datetime,
) -> None:
    """Withdraw a version; if it was live, ``successor`` goes live, or nothing.

    If it is withdrawn already, only its purge is brought forward.
    """
    in_use = _in_use(session, model, version)
    if in_use:
        leases.revoke(session, leases.of_model(model.id), now=now)
    _lock(session, model)
    session.refresh(version)
    if version.status in _GONE:
        _bring_forward([version], model, purge, now=now)
        return
    if _in_use(session, model, version) and not in_use:
        raise versions.ProductionMoved(f"version {version.number} has just come into use; repeat")
    was_live = model.production_id == version.id
    ends = was_live and successor is None
    releases.lock(session, [model.id])
    _stop_batch(session, model, base=None if ends else version, actor=actor, now=now)
    if was_live and successor is not None:
        _succeed(session, model, version, successor, actor=actor, now=now)
    if ends:
        releases.of_model(session, model, actor=actor, now=now)
    _take_back(session, model, [version], purge, actor=actor, now=now)
    if ends:
        _point_nowhere(session, model, version, actor=actor, now=now)
        versions.retire_containing(session, model, keep=None, actor=actor, now=now)
    session.flush()


def withdraw_model(
    session: Session, model: Model, *, purge: Purge = "after_window", actor: str, now: datetime
) -> None:
    """Withdraw a model with all its versions, and stop what runs on it.

    If it is withdrawn already, only its purge is brought forward.
    """
    _revoke(session, [model], now=now)
    _lock(session, model)
    _stop_runs(session, [model], actor=actor, now=now)
    releases.lock(session, [model.id])
    _withdraw_locked(session, model, purge=purge, actor=actor, now=now)


def withdraw_dataset(
    session: Session,
    dataset: Dataset,
    *,
    models: Models = "keep",
    purge: Purge = "after_window",
    actor: str,
    now: datetime,
) -> None:
    """Withdraw a dataset and, if requested, its models; workers overwrite every row.

    Its open requests then only wait for that. Raise ``ModelsInUse`` with the names of models in
    service. If it is withdrawn already, only the purge of its models is brought forward.
    """
    leases.revoke(session, leases.of_ingest(dataset.id), now=now)
    if models == "withdraw":
        _revoke(session, _models(session, dataset), now=now)
    locks.dataset(session, dataset.id, locks.Hold.PUBLICATION)
    theirs = locks.models(session, [one.id for one in _models(session, dataset)])
    active = sorted(one.name for one in theirs if one.withdrawn_at is None)
    if active and models == "keep":
        raise ModelsInUse(
            f"dataset {dataset.name} has models that are not withdrawn: {', '.join(active)}; "
            "withdraw them first, or delete the dataset with ?models=withdraw (in the command line "
            "--with-models)",
            models=active,
        )
    if models == "withdraw":
        _stop_runs(session, theirs, actor=actor, now=now)
    releases.lock(session, [one.id for one in theirs], dataset=dataset)
    if models == "withdraw":
        for one in theirs:
            _withdraw_locked(session, one, purge=purge, actor=actor, now=now)
    if dataset.withdrawn_at is not None:
        return
    machines.datasets.move(dataset, DatasetStatus.WITHDRAWN)
    dataset.withdrawn_at = now
    dataset.error = None
    appends.cancel(session, dataset, now=now)
    session.flush()
    waiting = releases.of_dataset(session, dataset, actor=actor)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DATASET_WITHDRAWN,
        subject=f"dataset:{dataset.name}",
        data={"models": active, "requests": waiting},
    )


def anything_live(session: Session, dataset: Dataset) -> bool:
    """Return whether a model of the dataset has a production version."""
    return any(model.production_id is not None for model in _models(session, dataset))


def _withdraw_locked(
    session: Session, model: Model, *, purge: Purge, actor: str, now: datetime
) -> None:
    standing = session.scalars(
        select(Version)
        .where(Version.model_id == model.id, Version.status != VersionStatus.PURGED)
        .order_by(Version.number)
        .execution_options(populate_existing=True)
    ).all()
    if model.withdrawn_at is not None:
        _bring_forward(standing, model, purge, now=now)
        return
    live = next((one for one in standing if one.id == model.production_id), None)
    _stop_batch(session, model, base=None, actor=actor, now=now)
    completed = releases.of_model(session, model, actor=actor, now=now)
    model.withdrawn_at = now
    model.run_now_at = model.run_now_method = None
    left = [one for one in standing if one.status not in _GONE]
    _take_back(session, model, left, purge, actor=actor, now=now)
    _bring_forward(standing, model, purge, now=now)
    if live is not None:
        _point_nowhere(session, model, live, actor=actor, now=now)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.MODEL_WITHDRAWN,
        subject=f"model:{model.name}",
        data={
            "versions": len(left),
            "production": None if live is None else live.number,
            "erasures": completed,
        },
    )


def _models(session: Session, dataset: Dataset) -> Sequence[Model]:
    return session.scalars(
        select(Model).where(Model.dataset_id == dataset.id).order_by(Model.id)
    ).all()


def _revoke(session: Session, models: Sequence[Model], *, now: datetime) -> None:
    """Revoke the leases on the models; call it first, as leases come before other locks."""
    ids = [model.id for model in models]
    running = session.scalars(
        select(TrainingRun.id)
        .where(TrainingRun.model_id.in_(ids), TrainingRun.status.in_(runs.ACTIVE))
        .order_by(TrainingRun.id)
    ).all()
    # In the order in which a finished training takes the two leases.
    for run_id in running:
        leases.revoke(session, leases.of_run(run_id), now=now)
    for model_id in ids:
        leases.revoke(session, leases.of_model(model_id), now=now)


def _lock(session: Session, model: Model) -> None:
    locks.dataset(session, model.dataset_id, locks.Hold.PUBLICATION)
    locks.models(session, [model.id])


def _in_use(session: Session, model: Model, version: Version) -> bool:
    """Return whether it is live, or a batch runs or is held on it."""
    return model.production_id == version.id or _running(session, model, version) is not None


def _running(session: Session, model: Model, base: Version | None) -> Batch | None:
    wanted = select(Batch).where(
        Batch.model_id == model.id, db.among(Batch.status, BatchStatus.RUNNING, BatchStatus.HELD)
    )
    if base is not None:
        wanted = wanted.where(Batch.base_version_id == base.id)
    # What was read before the lease was revoked and the model locked may have changed since.
    return session.scalar(wanted.execution_options(populate_existing=True))


def _stop_batch(
    session: Session, model: Model, *, base: Version | None, actor: str, now: datetime
) -> None:
    batch = _running(session, model, base)
    if batch is not None and batch.status == BatchStatus.HELD:
        because = "its base was withdrawn"
        holds.release(session, model, batch, because=because, actor=actor, now=now)
    elif batch is not None:
        execution.stop(session, batch, because="its version was withdrawn", actor=actor, now=now)


def _stop_runs(session: Session, models: Sequence[Model], *, actor: str, now: datetime) -> None:
    for model in models:
        run = runs.active(session, model)
        if run is not None and locks.training_run(session, run.id).status in runs.ACTIVE:
            runs.fail(session, run, error="the model was withdrawn", actor=actor, now=now)


def _succeed(
    session: Session,
    model: Model,
    version: Version,
    successor: Version,
    *,
    actor: str,
    now: datetime,
) -> None:
    if successor.status != VersionStatus.PUBLISHED or successor.id == version.id:
        raise Conflict(
            f"version {successor.number} of {model.name} cannot take the place of version "
            f"{version.number}; name another one that is published"
        )
    versions.promote(
        session,
        model,
        successor,
        expected_production=version.id,
        reason="withdrawn",
        actor=actor,
        now=now,
    )


def _take_back(
    session: Session,
    model: Model,
    going: Sequence[Version],
    purge: Purge,
    *,
    actor: str,
    now: datetime,
) -> None:
    for version in going:
        machines.versions.move(version, VersionStatus.WITHDRAWN)
        version.withdrawn_at = now
    _bring_forward(going, model, purge, now=now)
    chain.append_many(
        session,
        actor=actor,
        lines=[
            chain.Line(
                chain.Action.VERSION_WITHDRAWN,
                versions.subject(model, version),
                {"digest": version.digest},
            )
            for version in going
        ],
    )


def _bring_forward(going: Sequence[Version], model: Model, purge: Purge, *, now: datetime) -> None:
    """Set when the versions are destroyed, never later than was set before."""
    window = timedelta(seconds=Policy.model_validate(model.policy).purge_after_seconds)
    for version in going:
        if version.status != VersionStatus.WITHDRAWN:
            continue
        at = now if purge == "now" else (version.retired_at or now) + window
        version.purge_at = at if version.purge_at is None else min(version.purge_at, at)


def _point_nowhere(
    session: Session, model: Model, was: Version, *, actor: str, now: datetime
) -> None:
    model.production_id = None
    session.add(
        AliasMove(
            model_id=model.id,
            version_id=None,
            previous_id=was.id,
            reason="withdrawn",
            moved_by=actor,
            moved_at=now,
        )
    )
    session.flush()
    session.expire(model, ["production"])
