"""Which records a deletion request names: those listed for it, or those of a class.

Requests that matched exactly the same records share one list (``listing``), under the id of the
first of them. A request for a class lists nothing: its label determines the records, and cannot
come to mean others, because records keep their labels, also those of erased rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    exists,
    func,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy.orm import Session, aliased

from service.ledger.database.tables import DeletionRequest, Erasure, Record, RequestRecord


@dataclass(frozen=True)
class Names:
    """What requests name, without repetition."""

    #: Ids under which records are listed.
    lists: frozenset[str]
    #: Labels of classes.
    labels: frozenset[int]

    @classmethod
    def of(cls, requests: Iterable[DeletionRequest]) -> Self:
        """Return what these requests name."""
        return cls._of((one.listed_by, one.label, one.kind) for one in requests)

    @classmethod
    def of_ids(cls, session: Session, requests: Collection[str]) -> Self:
        """Return what the requests of these ids name."""
        wanted = select(DeletionRequest.listed_by, DeletionRequest.label, DeletionRequest.kind)
        found = session.execute(wanted.where(DeletionRequest.id.in_(requests)).distinct())
        return cls._of((listed_by, label, kind) for listed_by, label, kind in found)

    @classmethod
    def _of(cls, requests: Iterable[tuple[str | None, int | None, str]]) -> Self:
        lists: set[str] = set()
        labels: set[int] = set()
        for listed_by, label, kind in requests:
            if listed_by is not None:
                lists.add(listed_by)
            if kind == "class" and label is not None:
                labels.add(label)
        return cls(frozenset(lists), frozenset(labels))


def lists(request: Any = DeletionRequest) -> ColumnElement[bool]:
    """Return SQL: ``RequestRecord`` lists ``Record`` for ``request`` (or an alias)."""
    return and_(
        RequestRecord.request_id == request.listed_by,
        RequestRecord.dataset_id == Record.dataset_id,
        RequestRecord.row == Record.row,
    )


def of_class(request: Any = DeletionRequest) -> ColumnElement[bool]:
    """Return SQL: ``request`` (or an alias) is for the class of ``Record``."""
    return and_(
        # A literal, because the index on requests for classes has one.
        request.kind == literal_column("'class'"),
        request.dataset_id == Record.dataset_id,
        request.label == Record.label,
    )


def asked(*about: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return SQL: a request with an erasure that satisfies ``about`` names ``Record``."""
    # Aliases: any request may match, independent of the one in the enclosing query.
    name, request = aliased(RequestRecord), aliased(DeletionRequest)
    listed = exists().where(
        name.dataset_id == Record.dataset_id,
        name.row == Record.row,
        request.listed_by == name.request_id,
        Erasure.request_id == request.id,
        *about,
    )
    by_label = exists().where(of_class(request), Erasure.request_id == request.id, *about)
    return or_(listed, by_label)


def naming(*rows: ColumnElement[bool]) -> Select[Any]:
    """Select the ids of all requests that name a ``Record`` that satisfies ``rows``, sorted."""
    listed = _listed(DeletionRequest.id).where(*rows)
    by_label = select(DeletionRequest.id).join(Record, of_class()).where(*rows)
    found = listed.union(by_label).subquery()
    return select(found.c.id).order_by(found.c.id)


def records(
    *columns: Any,
    requests: Collection[str] | ColumnElement[bool] | None = None,
    dataset_id: int | None = None,
) -> CompoundSelect[Any]:
    """Select (request id, ``columns`` of ``Record``) of what requests matched.

    ``requests``, ids or a condition of ``DeletionRequest``, and ``dataset_id`` restrict it. Take a
    condition for requests that can be many: a statement takes a limited number of values.

    Records of a class that were erased before the request were not matched.
    """
    listed = _listed(DeletionRequest.id.label("request_id"), *columns)
    by_label = (
        select(DeletionRequest.id, *columns)
        .join(Record, of_class())
        .where(or_(Record.erased_at.is_(None), Record.erased_at > DeletionRequest.created_at))
    )
    if dataset_id is not None:
        listed = listed.where(Record.dataset_id == dataset_id)
        by_label = by_label.where(Record.dataset_id == dataset_id)
    if requests is not None:
        if not isinstance(requests, ColumnElement):
            requests = DeletionRequest.id.in_(requests)
        listed, by_label = listed.where(requests), by_label.where(requests)
    return union(listed, by_label)


def named(names: Names) -> list[ColumnElement[bool]]:
    """Return SQL: conditions of which one holds for each ``Record`` that is named.

    They are separate, because a disjunction of the two could use neither index.
    """
    found: list[ColumnElement[bool]] = []
    if names.lists:
        # Of an expression no index is used: with old statistics the planner would otherwise read
        # all that was ever listed of the dataset, instead of these lists.
        dataset_id = func.coalesce(RequestRecord.dataset_id, RequestRecord.dataset_id)
        found.append(
            exists().where(
                RequestRecord.request_id.in_(names.lists),
                dataset_id == Record.dataset_id,
                RequestRecord.row == Record.row,
            )
        )
    if names.labels:
        found.append(Record.label.in_(names.labels))
    return found


def _listed(*columns: Any) -> Select[Any]:
    """Select ``columns`` of each request with each ``Record`` that is listed for it."""
    return (
        select(*columns)
        .select_from(DeletionRequest)
        .join(RequestRecord, RequestRecord.request_id == DeletionRequest.listed_by)
        .join(Record, lists())
    )
