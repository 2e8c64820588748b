"""Kept states of training runs, from which the next attempt resumes.

A state has seen every row that was not excluded at the run's revision. It ends with its run, or
before, when a backup was restored. Workers then destroy it.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.states import IllegalMove, RunStatus
from service.ledger.database.tables import Model, TrainingRun
from service.ledger.obligations import raw_rows
from service.ledger.training.runs import ACTIVE


def can_resume(session: Session, run: TrainingRun) -> bool:
    """Return whether a state was kept and no row that it has seen is erased.

    Rows excluded since stay in the array for the run's sake (``raw_rows.erasable``) and are owed by
    its version. If rows were erased nevertheless, an epoch over them would train on zeros.
    """
    if run.state_digest is None or run.data_revision is None:
        return False
    model = session.get_one(Model, run.model_id)
    return not raw_rows.erased_since(session, model.dataset_id, run.data_revision)


def keep(session: Session, run: TrainingRun, *, digest: str) -> str | None:
    """Record the state after an epoch; return the digest of the previous one, to be destroyed.

    Attempts are counted from zero again, because the training has made progress. Not an audit
    event. Raise ``IllegalMove`` if the run has ended.
    """
    session.refresh(run, with_for_update=True)
    if run.status != RunStatus.RUNNING:
        raise IllegalMove(f"this training run is {run.status}, and nobody trains it any more")
    before, run.state_digest = run.state_digest, digest
    run.attempts = 1
    session.flush()
    return None if before == digest else before


def give_up(session: Session) -> None:
    """Mark all kept states as not to be resumed: each run starts anew."""
    session.execute(
        update(TrainingRun)
        .where(TrainingRun.state_digest.is_not(None), TrainingRun.status.in_(ACTIVE))
        .values(data_revision=None)
        .execution_options(synchronize_session="fetch")
    )


def left(session: Session) -> list[tuple[str, str]]:
    """Return (run, digest) of the states of ended runs, which are to be destroyed."""
    rows = session.execute(
        select(TrainingRun.id, TrainingRun.state_digest).where(
            TrainingRun.state_digest.is_not(None), TrainingRun.status.not_in(ACTIVE)
        )
    )
    return [(run_id, digest) for run_id, digest in rows if digest is not None]


def destroyed(session: Session, run: TrainingRun, *, digest: str, actor: str) -> None:
    """Record that the file of the run's last state is overwritten and gone."""
    if run.state_digest != digest:
        return
    run.state_digest = None
    session.flush()
    model = session.get_one(Model, run.model_id)
    chain.append(
        session,
        actor=actor,
        action=chain.Action.TRAINING_RUN_STATE_DESTROYED,
        subject=f"model:{model.name}",
        data={"training_run": run.id, "digest": digest},
    )
