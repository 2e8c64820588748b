"""Due date, completion estimate and approval limits of a request."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from service.ledger.batches import exactness
from service.ledger.database.states import BatchStatus, RequestStatus, RunStatus
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DeletionRequest,
    Model,
    RequestDataset,
    TrainingRun,
)
from service.ledger.registry.policy import Policy
from service.ledger.selection.regulations import Period

#: Assumed duration of a batch before one has been measured.
UNKNOWN_BATCH_SECONDS = 60.0
RECENT_BATCHES = 20

_GDPR = Period()

#: Largest number of cached estimates.
MOST_KEPT = 1_000

#: States of requests that do not count towards a day's allowance.
_UNCOUNTED = (
    RequestStatus.AWAITING_APPROVAL,
    RequestStatus.DENIED,
    RequestStatus.CANCELLED,
    RequestStatus.NO_MATCH,
)


def due(asked: datetime, period: Period = _GDPR) -> datetime:
    """Return by when what is asked at this moment is due."""
    return period.due(asked)


def seconds_needed(session: Session, models: Sequence[Model]) -> float:
    """Estimate the seconds to a request's end: the longest wait for a batch, then two batches.

    Two, because a request that arrives while a batch runs goes to the next one.
    """
    if not models:
        return UNKNOWN_BATCH_SECONDS
    recent = _recent(session, [model.id for model in models])
    return max(
        policy.hold_seconds
        + policy.max_wait_seconds
        + 2 * _batch_seconds(session, model, [one for one in recent if one.model_id == model.id])
        for model in models
        for policy in [Policy.model_validate(model.policy)]
    )


class Outlooks:
    """Cached estimates of ``seconds_needed``, because batches end far less often than requests."""

    def __init__(self, age_seconds: float) -> None:
        self._age_seconds = age_seconds
        self._kept: dict[tuple[tuple[int, int | None], ...], tuple[float, float]] = {}

    def seconds_needed(self, session: Session, models: Sequence[Model]) -> float:
        """Return the estimate for these models, no older than ``age_seconds``."""
        name = tuple((model.id, model.production_id) for model in models)
        made_at, seconds = self._kept.get(name, (-math.inf, 0.0))
        if time.monotonic() - made_at > self._age_seconds:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            made_at, seconds = time.monotonic(), seconds_needed(session, models)
            self._kept[name] = (made_at, seconds)
        return seconds


@dataclass
class Allowance:
    """How many records the requests of one dataset may have without approval."""

    per_request: float
    left_today: float

    def covers(self, records: int) -> bool:
        """Return whether a request for this many records needs no approval."""
        return records <= min(self.per_request, self.left_today)

    def take(self, records: int) -> None:
        """Count the records of a request that needs no approval."""
        self.left_today -= records


def is_limited(model: Model) -> bool:
    """Return whether the model's policy limits the records of a day without approval."""
    limits = Policy.model_validate(model.policy).approval
    return limits.max_records_per_day is not None or limits.max_share_per_day is not None


def allowance(
    session: Session, dataset: Dataset, models: Iterable[Model], *, now: datetime
) -> Allowance:
    """Return the strictest limits of the policies of the dataset's models.

    The caller has locked the models with a limit per day, and keeps the locks until the requests
    that the limits allow are committed.
    """
    limits = [Policy.model_validate(model.policy).approval for model in models]
    rows = dataset.rows or 0
    each = [
        _tighter(one.max_records_per_request, one.max_share_per_request, rows) for one in limits
    ]
    daily = [_tighter(one.max_records_per_day, one.max_share_per_day, rows) for one in limits]
    today = min(daily, default=math.inf)
    if today < math.inf:
        today -= _records_since(session, dataset, now - timedelta(days=1))
    return Allowance(min(each, default=math.inf), today)


def _tighter(number: int | None, share: float | None, rows: int) -> float:
    of_number = math.inf if number is None else float(number)
    return of_number if share is None else min(of_number, share * rows)


def _records_since(session: Session, dataset: Dataset, since: datetime) -> int:
    counted = (DeletionRequest.created_at >= since, DeletionRequest.status.not_in(_UNCOUNTED))
    of_it = select(func.sum(DeletionRequest.matched)).where(
        DeletionRequest.dataset_id == dataset.id, *counted
    )
    of_every_dataset = (
        select(func.sum(RequestDataset.matched))
        .join(DeletionRequest, DeletionRequest.id == RequestDataset.request_id)
        .where(RequestDataset.dataset_id == dataset.id, *counted)
    )
    sums = session.execute(
        select(of_it.scalar_subquery(), of_every_dataset.scalar_subquery())
    ).one()
    return sum(int(one or 0) for one in sums)


def _recent(session: Session, model_ids: Sequence[int]) -> Sequence[Any]:
    """Return what estimates need of the models' latest completed batches, in one statement."""
    return session.execute(_RECENT, {"model_ids": model_ids}).all()


_RECENT = (
    select(Batch.model_id, Batch.kind, Batch.version_id, Batch.created_at, Batch.finished_at)
    .where(
        Batch.model_id.in_(bindparam("model_ids", expanding=True)),
        Batch.status == BatchStatus.COMPLETED,
    )
    .order_by(Batch.id.desc())
    .limit(RECENT_BATCHES)
)


def _batch_seconds(session: Session, model: Model, recent: Sequence[Any]) -> float:
    """Return how long the model's next batch may take, from its recent ones or a training."""
    left_a_class = any(
        one.kind == "class" and one.version_id == model.production_id for one in recent
    )
    if left_a_class and exactness.must_be_exact(session, model):
        return _training_seconds(session, model)
    took = [one.finished_at - one.created_at for one in recent if one.finished_at is not None]
    seconds = [one.total_seconds() for one in took]
    return statistics.median(seconds) if seconds else UNKNOWN_BATCH_SECONDS


def _training_seconds(session: Session, model: Model) -> float:
    """Return the seconds of the model's latest training; a guess if it was trained elsewhere."""
    latest = session.execute(
        select(TrainingRun.started_at, TrainingRun.finished_at)
        .where(TrainingRun.model_id == model.id, TrainingRun.status == RunStatus.COMPLETED)
        .order_by(TrainingRun.id.desc())
        .limit(1)
    ).one_or_none()
    if latest is None or None in latest:
        return UNKNOWN_BATCH_SECONDS
    return float((latest.finished_at - latest.started_at).total_seconds())
