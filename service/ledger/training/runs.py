"""Training runs: queue, run under a lease, complete, fail or cancel."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.ledger.audit import chain, machines
from service.ledger.database import ids, retries
from service.ledger.database.states import RunStatus
from service.ledger.database.tables import Model, TrainingRun, Version
from service.ledger.obligations import shares
from service.ledger.registry import standing
from service.ledger.selection import exclusions
from service.ledger.training import asked

Reason = Literal["initial", "request", "consolidate"]

ACTIVE = (RunStatus.QUEUED, RunStatus.RUNNING)

_LONGEST_ERROR = 2_000


class RunActive(Conflict):
    """The model already has an unfinished run."""

    code = "training-run-active"


def create(
    session: Session,
    model: Model,
    *,
    reason: Reason | None = None,
    seed: int | None = None,
    data_revision: int | None = None,
    actor: str,
    now: datetime,
) -> TrainingRun:
    """Queue a training; without a reason it is ``initial`` for a model that has no version.

    It takes the rows that the dataset had at ``data_revision``, or has when it begins, in either
    case without those excluded until then.
    """
    session.refresh(model, with_for_update={"key_share": True})
    standing.require_model(model)
    if model.error is not None:
        raise Conflict(f"model {model.name} cannot be trained: {model.error}; create a new model")
    running = active(session, model)
    if running is not None:
        raise _refused(model, running.id)
    if data_revision is not None:
        asked.require(session, model, data_revision)
    run = TrainingRun(
        id=ids.new("run"),
        model_id=model.id,
        status=RunStatus.QUEUED,
        reason=_reason(session, model, reason),
        seed=secrets.randbits(32) if seed is None else seed,
        progress={},
        set_changes=asked.remembered(data_revision),
        attempts=0,
        created_by=actor,
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(run)
            session.flush()
    except IntegrityError as error:  # the unique index: another was queued at the same moment
        raise _refused(model, None) from error
    _write(
        session,
        run,
        model,
        chain.Action.TRAINING_RUN_QUEUED,
        actor,
        reason=run.reason,
        **({} if data_revision is None else {"asked_revision": data_revision}),
    )
    return run


def get(session: Session, model: Model, run_id: str) -> TrainingRun:
    """Return a run of this model; raise ``NotFound`` if there is none."""
    run = session.scalar(
        select(TrainingRun).where(TrainingRun.model_id == model.id, TrainingRun.id == run_id)
    )
    if run is None:
        raise NotFound(f"model {model.name} has no training run of this id; list its training runs")
    return run


def active(session: Session, model: Model) -> TrainingRun | None:
    """Return the run that is queued or running, if there is one."""
    return session.scalar(
        select(TrainingRun).where(TrainingRun.model_id == model.id, TrainingRun.status.in_(ACTIVE))
    )


def one_waits(session: Session, *, now: datetime) -> bool:
    """Return whether a run may be started that nobody has started, or that gave way."""
    waiting = exists().where(
        TrainingRun.status == RunStatus.QUEUED,
        retries.may_begin(TrainingRun.not_before, now),
    )
    return bool(session.scalar(select(waiting)))


def page(
    session: Session, model: Model, *, before: str | None, limit: int
) -> Sequence[TrainingRun]:
    """Return runs of the model, newest first, those older than the run ``before``."""
    wanted = select(TrainingRun).where(TrainingRun.model_id == model.id)
    if before is not None:
        wanted = wanted.where(TrainingRun.id < before)
    return session.scalars(wanted.order_by(TrainingRun.id.desc()).limit(limit)).all()


def version_numbers(session: Session, found: Sequence[TrainingRun]) -> dict[str, int]:
    """Return numbers of the versions that the runs made, by the runs' ids."""
    rows = session.execute(
        select(Version.training_run_id, Version.number).where(
            Version.training_run_id.in_([run.id for run in found]), Version.batch_id.is_(None)
        )
    )
    return {run_id: number for run_id, number in rows if run_id is not None}


def that_saw_forgotten(session: Session, model: Model) -> Sequence[TrainingRun]:
    """Return the model's unfinished runs that read rows forgotten since."""
    since = exclusions.rows(model.dataset_id, after=TrainingRun.data_revision).exists()
    return session.scalars(
        select(TrainingRun).where(
            TrainingRun.model_id == model.id, TrainingRun.status.in_(ACTIVE), since
        )
    ).all()


def start(
    session: Session,
    run: TrainingRun,
    *,
    data_revision: int,
    resume: bool = False,
    actor: str,
    now: datetime,
) -> None:
    """Begin an attempt, anew on the rows of this revision or from the kept state.

    The caller has locked the dataset for publication (``locks``): from now on open requests for
    rows that are not excluded yet concern the model.
    """
    _move(session, run, RunStatus.RUNNING)
    run.attempts += 1
    run.data_revision = data_revision
    if not resume:
        run.progress = {}
        run.curve = None
        run.set_changes = asked.remembered(asked.revision(run))
        run.state_digest = None
    run.started_at = now
    run.not_before = None
    session.flush()
    model = _model(session, run)
    shares.join(session, model, data_revision=data_revision, now=now)
    _write(
        session,
        run,
        model,
        chain.Action.TRAINING_RUN_STARTED,
        actor,
        data_revision=data_revision,
        attempt=run.attempts,
        **({"resumed": True} if resume else {}),
    )


def compared(session: Session, run: TrainingRun, set_changes: Mapping[str, Any]) -> None:
    """Record whether the results of its epochs may be shown (``shown_sets``).

    A resumed run keeps what was recorded when it began.
    """
    if run.set_changes is None or "rows" not in run.set_changes:
        run.set_changes = {**(run.set_changes or {}), **set_changes}
        session.flush()


def progress(session: Session, run_id: str, values: Mapping[str, Any]) -> None:
    """Store the progress of a run (``fraction``, ``epoch``, ``epochs``); not an audit event."""
    session.execute(
        update(TrainingRun)
        .where(TrainingRun.id == run_id, TrainingRun.status == RunStatus.RUNNING)
        .values(progress=dict(values))
        .execution_options(synchronize_session=False)
    )


def draw(session: Session, run_id: str, curve: Mapping[str, Any]) -> None:
    """Store the results of a run's epochs (``messages.train.Curve``); not an audit event."""
    session.execute(
        update(TrainingRun)
        .where(TrainingRun.id == run_id, TrainingRun.status == RunStatus.RUNNING)
        .values(curve=dict(curve))
        .execution_options(synchronize_session=False)
    )


def complete(
    session: Session,
    run: TrainingRun,
    version: Version,
    *,
    actor: str,
    now: datetime,
    epochs: int | None = None,
) -> None:
    """Complete the run with the version that was registered, after ``epochs`` if it counts them."""
    _move(session, run, RunStatus.COMPLETED)
    run.finished_at = now
    run.error = None
    # What a short training said of its progress may have come before its first epoch.
    counted = {} if epochs is None else {"epoch": epochs, "epochs": epochs}
    run.progress = {**run.progress, **counted, "fraction": 1.0}
    session.flush()
    _write(
        session,
        run,
        _model(session, run),
        chain.Action.TRAINING_RUN_COMPLETED,
        actor,
        version=version.number,
    )


def fail(session: Session, run: TrainingRun, *, error: str, actor: str, now: datetime) -> None:
    """Give the run up; ``error`` says why and what to do."""
    _move(session, run, RunStatus.FAILED)
    run.finished_at = now
    run.error = error[:_LONGEST_ERROR]
    session.flush()
    _write(
        session,
        run,
        _model(session, run),
        chain.Action.TRAINING_RUN_FAILED,
        actor,
        attempts=run.attempts,
    )


def cancel(session: Session, run: TrainingRun, *, actor: str, now: datetime) -> None:
    """Cancel a run; cancelling it again changes nothing.

    The worker that trains notices within seconds and ends its computation; the kept state is
    destroyed.
    """
    session.refresh(run, with_for_update=True)
    if run.status == RunStatus.CANCELLED:
        return
    if run.status not in ACTIVE:
        raise Conflict(f"this training run is {run.status}; only an open one can be cancelled")
    _move(session, run, RunStatus.CANCELLED)
    run.finished_at = now
    session.flush()
    _write(session, run, _model(session, run), chain.Action.TRAINING_RUN_CANCELLED, actor)


def has_ended(session: Session, run_id: str) -> bool:
    """Return whether the run has ended: it was cancelled, or its model withdrawn."""
    status = session.scalar(select(TrainingRun.status).where(TrainingRun.id == run_id))
    return status not in ACTIVE


def hand_back(
    session: Session,
    run: TrainingRun,
    *,
    actor: str,
    not_before: datetime | None = None,
    error: str | None = None,
    because: str | None = None,
) -> None:
    """Queue the run again, to begin at ``not_before`` or later.

    ``because``: nothing failed, the worker had to stop; such an attempt does not count.
    """
    _move(session, run, RunStatus.QUEUED)
    run.not_before = not_before
    run.error = None if error is None else error[:_LONGEST_ERROR]
    if because is not None:
        run.attempts -= 1
    session.flush()
    _write(
        session,
        run,
        _model(session, run),
        chain.Action.TRAINING_RUN_HANDED_BACK,
        actor,
        attempts=run.attempts,
        **({} if because is None else {"because": because}),
    )


def _reason(session: Session, model: Model, reason: Reason | None) -> Reason:
    has_version = session.scalar(select(exists().where(Version.model_id == model.id)))
    if reason is None:
        return "request" if has_version else "initial"
    if reason == "initial" and has_version:
        raise Conflict(
            f"model {model.name} has versions already; train it again with the reason `request`"
        )
    if reason == "consolidate" and model.production_id is None:
        raise Conflict(
            f"model {model.name} has no production version to consolidate; "
            "train it with the reason `initial`"
        )
    return reason


def _refused(model: Model, run_id: str | None) -> RunActive:
    which = f" ({run_id})" if run_id else ""
    return RunActive(
        f"model {model.name} has a training run that is not finished{which}; wait for it",
        retry_after_seconds=30,
        training_run=run_id,
    )


def _move(session: Session, run: TrainingRun, new: RunStatus) -> None:
    # Locked and read again: it may have been cancelled since it was read.
    session.flush()
    session.refresh(run, with_for_update=True)
    machines.runs.move(run, new)


def _model(session: Session, run: TrainingRun) -> Model:
    model = session.get(Model, run.model_id)
    assert model is not None
    return model


def _write(
    session: Session,
    run: TrainingRun,
    model: Model,
    action: chain.Action,
    actor: str,
    **data: Any,
) -> None:
    chain.append(
        session,
        actor=actor,
        action=action,
        subject=f"model:{model.name}",
        data={"training_run": run.id, **data},
    )
