"""Erasures: one request's share of the work on one model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from sqlalchemy import ColumnElement, and_, false, or_
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.ledger.audit import chain, machines
from service.ledger.database import db
from service.ledger.database.states import ErasureStatus, IllegalMove, RequestStatus
from service.ledger.database.tables import Batch, DeletionRequest, Erasure, Model
from service.ledger.obligations import shares

#: Members of a batch whose ids differ by at most this much lie in one range.
_GAP = 100
#: Largest number of ranges of a batch: SQLite takes fewer than 1,000 in one condition.
_RANGES = 500


def claim(session: Session, model: Model, members: Sequence[Erasure], *, batch_id: str) -> None:
    """Assign the model's erasures to a running batch; their requests can no longer be cancelled.

    One statement for all erasures and one for all requests. The caller has loaded and locked these.
    """
    claimed = session.scalars(
        machines.erasures.update(session, ErasureStatus.CLAIMED, batch_id=batch_id)
        .where(
            Erasure.model_id == model.id,
            shares.is_open(),
            db.close_together(Erasure.id, [one.id for one in members]),
        )
        .returning(Erasure.id)
        .execution_options(synchronize_session=False)
    ).all()
    if len(claimed) != len(members):
        raise IllegalMove("an erasure of this batch does not wait for one any more")
    for one in members:
        set_committed_value(one, "status", ErasureStatus.CLAIMED)
        set_committed_value(one, "batch_id", batch_id)
    # A request that needs review because of another model keeps that state until it is retried.
    accepted = [one.request for one in members if one.request.status == RequestStatus.ACCEPTED]
    if not accepted:
        return
    session.execute(
        machines.requests.update(session, RequestStatus.PROCESSING)
        .where(
            DeletionRequest.is_open,
            db.close_together(DeletionRequest.id, [one.id for one in accepted]),
        )
        .execution_options(synchronize_session=False)
    )
    for request in accepted:
        set_committed_value(request, "status", RequestStatus.PROCESSING)


def ranges(members: Iterable[Erasure]) -> list[list[int]]:
    """Return ``[[first, last], …]``: ranges of ids that together include those of the members.

    Gaps longer than ``_GAP`` separate them; of too many for ``_RANGES`` only the longest do.
    """
    found: list[list[int]] = []
    for one in sorted(one.id for one in members):
        if found and one - found[-1][1] <= _GAP:
            found[-1][1] = one
        else:
            found.append([one, one])
    if len(found) <= _RANGES:
        return found
    gaps = range(1, len(found))
    longest = sorted(gaps, key=lambda n: found[n][0] - found[n - 1][1])[-(_RANGES - 1) :]
    ends = [0, *sorted(longest), len(found)]
    return [[found[first][0], found[last - 1][1]] for first, last in pairwise(ends)]


def of_batch(batch: Batch) -> ColumnElement[bool]:
    """Return SQL: ``Erasure`` belongs to the batch."""
    belongs = Erasure.batch_id == batch.id
    if batch.members is None:
        return belongs
    near = (Erasure.id.between(first, last) for first, last in batch.members)
    return and_(belongs, or_(false(), *near))


def complete(erasure: Erasure, *, version_id: int | None, now: datetime) -> None:
    """Complete the erasure with the version that goes live; None: nothing is live any more."""
    machines.erasures.move(erasure, ErasureStatus.COMPLETED)
    erasure.version_id = version_id
    erasure.completed_at = now
    erasure.error = None


def release(
    erasure: Erasure,
    *,
    attempts: int = 0,
    not_before: datetime | None = None,
    cohort: str | None = None,
    error: str | None = None,
) -> None:
    """Return the erasure to the queue, with the attempts and the error of its last batch."""
    machines.erasures.move(erasure, ErasureStatus.PENDING)
    erasure.batch_id = None
    erasure.attempts = attempts
    erasure.not_before = not_before
    erasure.cohort = cohort or erasure.cohort
    erasure.error = error


def put_aside(session: Session, erasure: Erasure, *, error: str, actor: str) -> None:
    """Mark an erasure that fails even alone for review by an operator."""
    machines.erasures.move(erasure, ErasureStatus.NEEDS_REVIEW)
    erasure.error = error
    request = session.get_one(DeletionRequest, erasure.request_id)
    if request.status != RequestStatus.NEEDS_REVIEW:
        machines.requests.move(request, RequestStatus.NEEDS_REVIEW)
    request.status_reason = f"{error}; {_ways_out(session, erasure)}"
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DELETION_REQUEST_NEEDS_REVIEW,
        subject=f"deletion_request:{erasure.request_id}",
        data={},
    )


def _ways_out(session: Session, erasure: Erasure) -> str:
    model = session.get_one(Model, erasure.model_id)
    return (
        f"try it again (POST /v1/deletion-requests/{erasure.request_id}:retry) once the cause is "
        "fixed; if nothing of the model can be retained, withdraw it "
        f"(POST /v1/models/{model.name}:withdraw), which completes the request"
    )
