"""Previews: what a deletion request would match, without recording it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.ledger.audit import canonical, chain
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset, Model, Record, Version
from service.ledger.registry import lineage
from service.ledger.registry.datasets import SPLITS
from service.ledger.requests import outlook, parts
from service.ledger.selection import matching
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask


def preview(
    session: Session, ask: Ask, *, principal: str, digester: Digester, now: datetime
) -> dict[str, Any]:
    """Return what the ask would match and in which state it would begin.

    Only an audit line is recorded: that this key asked, but not about whose records. Raise what the
    request itself would be refused with.
    """
    [ask] = parts.with_labels(session, [ask])
    [found] = parts.parts_of(session, [ask], digester=digester, now=now)
    if isinstance(found, ServiceError):
        raise found
    if ask.kind == "class":
        parts.check_methods(session, parts.models_of(found))
    status = parts.first_status(found)
    chain.append(
        session,
        actor=f"key:{principal}",
        action=chain.Action.DELETION_REQUEST_PREVIEWED,
        subject=f"key:{principal}",
        data={"kind": ask.kind, "dataset": ask.dataset},
    )
    matched = sum(len(part.match.rows) for part in found)
    forgotten = sum(part.match.already_forgotten for part in found)
    not_found = sum(part.match.not_found for part in found)
    ended = status in (RequestStatus.NO_MATCH, RequestStatus.COMPLETED)
    due_at = outlook.due(now, ask.period)
    return {
        "dataset": ask.dataset,
        "kind": ask.kind,
        "status": status.value,
        "matched": matched,
        "already_forgotten": forgotten,
        "not_found": not_found,
        "complete_match": not_found == 0 and matched + forgotten > 0,
        "due_at": canonical.moment(due_at),
        "expected_by": canonical.moment(
            now if ended else parts.expected_by(found, now=now, due_at=due_at)
        ),
        "datasets": [_of_dataset(session, part) for part in found],
    }


def _of_dataset(session: Session, part: parts.Part) -> dict[str, Any]:
    dataset, rows = part.affected.dataset, part.match.rows
    return {
        "dataset": dataset.name,
        "matched": len(rows),
        "already_forgotten": part.match.already_forgotten,
        "splits": _by_split(session, dataset, rows),
        "models": [_of_model(session, model, rows) for model in part.affected.models],
    }


def _by_split(session: Session, dataset: Dataset, rows: Sequence[int]) -> dict[str, int]:
    counts = dict.fromkeys(SPLITS, 0)
    for chunk in _chunks(rows):
        found = session.execute(
            select(Record.split, func.count())
            .where(Record.dataset_id == dataset.id, Record.row.in_(chunk))
            .group_by(Record.split)
        )
        for split, count in found:
            counts[SPLITS[split]] += count
    return counts


def _of_model(session: Session, model: Model, rows: Sequence[int]) -> dict[str, Any]:
    """Return how many of the rows the model's live version was trained on and still contains."""
    if model.production_id is None:
        return {"model": model.name, "version": None, "trained_on": 0}
    live = session.get_one(Version, model.production_id)
    inside = lineage.contained(session, live)
    trained_on = sum(
        session.scalar(
            select(func.count()).where(
                Record.dataset_id == model.dataset_id, Record.row.in_(chunk), inside
            )
        )
        or 0
        for chunk in _chunks(rows)
    )
    return {"model": model.name, "version": live.number, "trained_on": trained_on}


def _chunks(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(rows), matching.CHUNK):
        yield rows[first : first + matching.CHUNK]
