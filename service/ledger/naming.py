"""Which records a deletion request names: those that were listed for it, or those of a class.

A request for a class lists nothing. Its label says which records it names, and they cannot change:
a dataset's records keep their labels, those of erased rows too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    exists,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy.orm import Session, aliased

from service.ledger.tables import DeletionRequest, Erasure, Record, RequestRecord


def lists(request_id: Any) -> ColumnElement[bool]:
    """SQL: the row of ``RequestRecord`` belongs to the request, and names ``Record``."""
    return and_(
        RequestRecord.request_id == request_id,
        RequestRecord.dataset_id == Record.dataset_id,
        RequestRecord.row == Record.row,
    )


def of_class(request: Any = DeletionRequest) -> ColumnElement[bool]:
    """SQL: the row of ``request`` (or an alias) is for the class of ``Record``."""
    return and_(
        # Written out, as the index on requests for classes has it.
        request.kind == literal_column("'class'"),
        request.dataset_id == Record.dataset_id,
        request.label == Record.label,
    )


def asked(*about: ColumnElement[bool]) -> ColumnElement[bool]:
    """SQL: a request with an erasure of which ``about`` holds names ``Record``."""
    # Under names of their own: any request may do, whichever a query around this one looks at.
    name, request = aliased(RequestRecord), aliased(DeletionRequest)
    listed = exists().where(
        name.dataset_id == Record.dataset_id,
        name.row == Record.row,
        Erasure.request_id == name.request_id,
        *about,
    )
    by_label = exists().where(of_class(request), Erasure.request_id == request.id, *about)
    return or_(listed, by_label)


def naming(*rows: ColumnElement[bool]) -> Select[Any]:
    """Select of the ids of all requests that name a ``Record`` of which ``rows`` holds, sorted."""
    listed = (
        select(RequestRecord.request_id).join(Record, lists(RequestRecord.request_id)).where(*rows)
    )
    by_label = select(DeletionRequest.id).join(Record, of_class()).where(*rows)
    found = listed.union(by_label).subquery()
    return select(found.c.request_id).order_by(found.c.request_id)


def records(
    *columns: Any, requests: Collection[str] | None = None, dataset_id: int | None = None
) -> CompoundSelect[Any]:
    """Select of (request id, ``columns`` of ``Record``) of what requests matched.

    ``requests`` and ``dataset_id`` say of which alone.

    Records of a class that had been erased before it was asked for were not matched.
    """
    listed = select(RequestRecord.request_id, *columns).join(
        Record, lists(RequestRecord.request_id)
    )
    by_label = (
        select(DeletionRequest.id, *columns)
        .join(Record, of_class())
        .where(or_(Record.erased_at.is_(None), Record.erased_at > DeletionRequest.created_at))
    )
    if dataset_id is not None:
        listed = listed.where(Record.dataset_id == dataset_id)
        by_label = by_label.where(Record.dataset_id == dataset_id)
    if requests is not None:
        listed = listed.where(RequestRecord.request_id.in_(requests))
        by_label = by_label.where(DeletionRequest.id.in_(requests))
    return union(listed, by_label)


def labels(session: Session, requests: Collection[str]) -> list[int]:
    """Labels of the classes that these requests are for."""
    wanted = select(DeletionRequest.label).where(
        DeletionRequest.id.in_(requests), DeletionRequest.kind == literal_column("'class'")
    )
    return [label for label in session.scalars(wanted.distinct()) if label is not None]


def named(requests: Collection[str], labels: Collection[int]) -> list[ColumnElement[bool]]:
    """SQL: conditions of which one holds for each ``Record`` that one of the requests names.

    ``labels`` are those of the classes that they are for. Two conditions in the place of one: of
    a disjunction neither side can be looked up.
    """
    found: list[ColumnElement[bool]] = [
        exists().where(
            RequestRecord.request_id.in_(requests),
            RequestRecord.dataset_id == Record.dataset_id,
            RequestRecord.row == Record.row,
        )
    ]
    if labels:
        found.append(Record.label.in_(labels))
    return found
