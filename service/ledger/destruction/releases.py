"""Complete deletion requests whose model or dataset was withdrawn: nothing is left to unlearn.

The caller has locked dataset and models (``locks``), and no batch of the models runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain, machines
from service.ledger.database import locks
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Erasure, Model, RequestDataset
from service.ledger.obligations import erasures, legal, raw_rows, shares
from service.ledger.selection import exclusions, naming

_Thing = TypeVar("_Thing")


def lock(session: Session, models: Sequence[int], *, dataset: Dataset | None = None) -> None:
    """Lock the requests with open erasures on the models, or on the dataset's rows.

    Call it before any of their erasures is locked.
    """
    wanted = select(Erasure.request_id).where(Erasure.model_id.in_(models), shares.is_open())
    theirs = set(session.scalars(wanted))
    if dataset is not None:
        theirs |= set(
            session.scalars(
                select(DeletionRequest.id).where(
                    DeletionRequest.is_open,
                    or_(DeletionRequest.dataset_id == dataset.id, _everywhere(dataset)),
                )
            )
        )
    for some in _pieces(sorted(theirs)):
        locks.requests(session, some)


def of_model(session: Session, model: Model, *, actor: str, now: datetime) -> int:
    """Complete the open erasures of a model of which nothing is live; return how many there were.

    Raise ``UnderLegalHold`` if one of them is of a request on hold: then nothing is withdrawn.

    A request's erasures on other models go on, and it can be cancelled as long as no worker has
    begun with it.
    """
    legal.refuse(
        session,
        exists().where(
            Erasure.request_id == DeletionRequest.id,
            Erasure.model_id == model.id,
            shares.is_open(),
        ),
    )
    left = session.scalars(
        select(Erasure)
        .where(Erasure.model_id == model.id, shares.is_open())
        .order_by(Erasure.id)
        .execution_options(populate_existing=True)
    ).all()
    for some in _pieces(left):
        _complete(session, model, some, now=now)
    _say(session, [one.request_id for one in left], {"model": model.name}, actor=actor)
    return len(left)


def of_dataset(session: Session, dataset: Dataset, *, actor: str) -> int:
    """Begin every open request that only waits for the dataset's rows; return how many there were.

    They complete once these are overwritten. The dataset is already marked as withdrawn.
    """
    legal.refuse(session, or_(DeletionRequest.dataset_id == dataset.id, _everywhere(dataset)))
    waiting = sorted(
        session.scalars(
            select(DeletionRequest.id).where(
                DeletionRequest.is_open,
                or_(DeletionRequest.dataset_id == dataset.id, _ends_with(dataset)),
            )
        )
    )
    for some in _pieces(waiting):
        _begin(locks.requests(session, some))
        _exclude(session, dataset.id, some)
    _say(session, waiting, {"dataset": dataset.name}, actor=actor)
    return len(waiting)


def _ends_with(dataset: Dataset) -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` is over every dataset, and this was the last in service."""
    standing = exists().where(
        RequestDataset.request_id == DeletionRequest.id,
        Dataset.id == RequestDataset.dataset_id,
        Dataset.withdrawn_at.is_(None),
    )
    return and_(_everywhere(dataset), ~standing)


def _everywhere(dataset: Dataset) -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` is over every dataset and matched records in this one."""
    return exists().where(
        RequestDataset.request_id == DeletionRequest.id, RequestDataset.dataset_id == dataset.id
    )


def _complete(session: Session, model: Model, shares: Sequence[Erasure], *, now: datetime) -> None:
    asked = {share.request_id for share in shares}
    requests = {
        one.id: one
        for one in session.scalars(select(DeletionRequest).where(DeletionRequest.id.in_(asked)))
    }
    elsewhere = _elsewhere(session, model, asked)
    begun, completed = [], []
    for share in shares:
        request, rest = requests[share.request_id], elsewhere.get(share.request_id, set())
        if request.status == RequestStatus.ACCEPTED and rest:
            session.delete(share)  # not begun: the request now concerns the other models alone
            continue
        erasures.complete(share, version_id=None, now=now)
        completed.append(request.id)
        stuck = request.status == RequestStatus.NEEDS_REVIEW
        if request.status == RequestStatus.ACCEPTED or (
            stuck and ErasureStatus.NEEDS_REVIEW not in rest
        ):
            begun.append(request)
    _begin(begun)
    _exclude(session, model.dataset_id, completed)


def _elsewhere(
    session: Session, model: Model, requests: set[str]
) -> Mapping[str, set[ErasureStatus]]:
    """Return states of the requests' open erasures on other models."""
    found: dict[str, set[ErasureStatus]] = {}
    for request_id, status in session.execute(
        select(Erasure.request_id, Erasure.status).where(
            Erasure.request_id.in_(requests),
            Erasure.model_id != model.id,
            shares.is_open(),
        )
    ):
        found.setdefault(request_id, set()).add(status)
    return found


def _begin(requests: Iterable[DeletionRequest]) -> None:
    """Mark the requests as processing, so that they cannot be cancelled any more."""
    for request in requests:
        if request.status != RequestStatus.PROCESSING:
            machines.requests.move(request, RequestStatus.PROCESSING)
        request.status_reason = None


def _exclude(session: Session, dataset_id: int, requests: Sequence[str]) -> None:
    session.flush()
    if requests:
        exclusions.exclude(session, dataset_id, naming.Names.of_ids(session, requests))


def _say(session: Session, requests: Sequence[str], data: dict[str, str], *, actor: str) -> None:
    chain.append_many(
        session,
        actor=actor,
        lines=[
            chain.Line(
                chain.Action.DELETION_REQUEST_HOLDER_WITHDRAWN,
                f"deletion_request:{request_id}",
                dict(data),
            )
            for request_id in requests
        ],
    )


def _pieces(things: Sequence[_Thing]) -> Iterator[Sequence[_Thing]]:
    for first in range(0, len(things), raw_rows.ROWS_AT_ONCE):
        yield things[first : first + raw_rows.ROWS_AT_ONCE]
