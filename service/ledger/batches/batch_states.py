"""Kept states of retrains in batches, from which the next worker resumes.

Like the state of a training run, such a state has seen every row that was not excluded at its
revision. Rows excluded since are therefore not erased until the batch has ended
(``raw_rows.erasable``); their erasures on this model are open. A state ends with its batch, or
before, when another method is requested or a backup was restored. Workers then destroy it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.batches import execution, leases
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables import Batch, BatchState, Model
from service.ledger.obligations import raw_rows
from service.ledger.selection import exclusions


def resumable(session: Session, batch: Batch, method: Mapping[str, Any]) -> BatchState | None:
    """Return the batch's state if this method left it and no row that it saw is erased."""
    state = session.get(BatchState, batch.id)
    if state is None or state.given_up or state.method != dict(method):
        return None
    dataset_id = session.get_one(Model, batch.model_id).dataset_id
    return None if raw_rows.erased_since(session, dataset_id, state.data_revision) else state


def keep(
    session: Session,
    batch: Batch,
    *,
    held: leases.Held,
    digest: str,
    method: Mapping[str, Any],
    seed: int,
    data_revision: int,
) -> str | None:
    """Record the state after an epoch; return the digest of the previous one, to be destroyed.

    Attempts are counted from zero again, because the training has made progress. Not an audit
    event.
    """
    execution.lock(session, batch, held=held)
    state = session.get(BatchState, batch.id)
    before = None if state is None else state.digest
    if state is None:
        state = BatchState(batch_id=batch.id)
        session.add(state)
    state.digest = digest
    state.method = dict(method)
    state.seed = seed
    state.data_revision = data_revision
    state.given_up = False
    batch.attempts = 1
    session.flush()
    return None if before == digest else before


def of(session: Session, batch_id: str) -> str | None:
    """Return the digest of the state kept for a batch, or None."""
    return session.scalar(select(BatchState.digest).where(BatchState.batch_id == batch_id))


def left(session: Session) -> list[tuple[str, str]]:
    """Return (batch, digest) of states that will not be resumed and are to be destroyed."""
    rows = session.execute(
        select(BatchState.batch_id, BatchState.digest)
        .join(Batch, Batch.id == BatchState.batch_id)
        .where(or_(Batch.status != BatchStatus.RUNNING, BatchState.given_up))
    )
    return [(batch_id, digest) for batch_id, digest in rows]


def destroyed(session: Session, batch_id: str, *, digest: str, actor: str) -> None:
    """Record that the file of the batch's last state is overwritten and gone."""
    state = session.get(BatchState, batch_id, with_for_update=True)
    if state is None or state.digest != digest:
        return
    session.delete(state)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.BATCH_STATE_DESTROYED,
        subject=f"batch:{batch_id}",
        data={"digest": digest},
    )


def give_up(session: Session, *, batch_id: str | None = None) -> None:
    """Mark the state of a batch, or of all batches, as not to be resumed."""
    theirs = () if batch_id is None else (BatchState.batch_id == batch_id,)
    session.execute(
        update(BatchState)
        .where(*theirs)
        .values(given_up=True)
        .execution_options(synchronize_session="fetch")
    )


def that_saw_forgotten(session: Session, model: Model) -> Sequence[BatchState]:
    """Return states of the model's running batch that have seen rows excluded since."""
    since = exclusions.rows(model.dataset_id, after=BatchState.data_revision).exists()
    return session.scalars(
        select(BatchState)
        .join(Batch, Batch.id == BatchState.batch_id)
        .where(Batch.model_id == model.id, since)
    ).all()
