"""Consolidation: queue an exact retrain when approximate versions exceed their drift budget.

Or when the dataset has grown by what the policy says (``auto_train``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from service.ledger.batches import approvals
from service.ledger.database.states import AppendStatus, RunStatus
from service.ledger.database.tables import Dataset, DatasetAppend, Model, TrainingRun, Version
from service.ledger.registry import lineage, models
from service.ledger.registry.policy import AutoTrain, Policy
from service.ledger.training import runs

#: Pause after a consolidation that failed or was cancelled; the exceeded budget would queue the
#: next one at once.
PAUSE_AFTER_FAILURE = timedelta(days=1)


def reasons(session: Session, model: Model, version: Version, *, now: datetime) -> list[str]:
    """Return how the version exceeds the drift budget of the model's policy; [] for an anchor."""
    if version.id == version.anchor_id:
        return []
    budget = Policy.model_validate(model.policy).drift
    moved = lineage.drift(session, version, now=now)
    found = []
    if moved.share > budget.max_share:
        found.append(
            f"drift: {moved.share:.1%} of the anchor's rows are forgotten "
            f"(limit {budget.max_share:.1%})"
        )
    if moved.class_share > budget.max_class_share:
        found.append(
            f"class: {moved.class_share:.1%} of one class are forgotten "
            f"(limit {budget.max_class_share:.1%})"
        )
    if moved.of_whole_classes:
        # The class itself uses no budget, but the batch after it must be exact.
        found.append(
            "class: a whole class was forgotten since the anchor, so what is forgotten next "
            "has to be retrained until there is a new one"
        )
    if budget.max_age_days is not None and moved.age_days > budget.max_age_days:
        found.append(
            f"age: the anchor is {moved.age_days:.0f} days old (limit {budget.max_age_days})"
        )
    return found


def queue(
    session: Session, model: Model, *, because: Sequence[str], actor: str, now: datetime
) -> TrainingRun | None:
    """Queue the retrain that these reasons call for; None if the policy or another run forbids."""
    policy = Policy.model_validate(model.policy)
    if not because or not policy.auto_consolidate:
        return None
    return _queue(session, model, policy, actor=actor, now=now)


def queue_grown(session: Session, *, actor: str, now: datetime) -> list[TrainingRun]:
    """Queue trainings of models whose datasets have grown by as much as their policies say."""
    queued = []
    for live_id, policy in models.live_policies(session):
        if policy.auto_train.never:
            continue
        model = session.get_one(Model, session.get_one(Version, live_id).model_id)
        if _has_grown(session, model, policy.auto_train, now=now):
            run = _queue(session, model, policy, actor=actor, now=now)
            queued += [] if run is None else [run]
    return queued


def _has_grown(session: Session, model: Model, limits: AutoTrain, *, now: datetime) -> bool:
    # Rows that a version of any state was trained on are not new: it may be held, or catch up.
    known = session.scalar(select(func.max(Version.data_rows)).where(Version.model_id == model.id))
    dataset = session.get_one(Dataset, model.dataset_id)
    if known is None or known >= (dataset.rows or 0):
        return False
    appended = session.execute(
        select(DatasetAppend.split_rows, DatasetAppend.finished_at).where(
            DatasetAppend.dataset_id == dataset.id,
            DatasetAppend.status == AppendStatus.COMPLETED,
            DatasetAppend.first_row >= known,
        )
    )
    added = [((splits or {}).get("train", 0), at) for splits, at in appended]
    new = sum(rows for rows, _ in added)
    before = (dataset.split_rows or {}).get("train", 0) - new
    joined = [at for rows, at in added if rows and at is not None]
    return (
        (limits.rows is not None and new >= limits.rows)
        or (limits.share is not None and new >= limits.share * before)
        or (
            limits.days is not None
            and bool(joined)
            and now - min(joined) >= timedelta(days=limits.days)
        )
    )


def _queue(
    session: Session, model: Model, policy: Policy, *, actor: str, now: datetime
) -> TrainingRun | None:
    if runs.active(session, model) or _ended_in_vain_lately(session, model, now=now):
        return None
    if policy.on_accuracy_drop == "hold" and _is_set_aside(session, model):
        return None  # the next one would end like the last: an operator must decide first
    try:
        return runs.create(session, model, reason="consolidate", actor=actor, now=now)
    except runs.RunActive:  # another process queued one at the same moment
        return None


def aged(session: Session, *, now: datetime) -> list[tuple[Model, Version]]:
    """Return models with their live version if its anchor is older than the policy allows."""
    limits = {
        live_id: timedelta(days=policy.drift.max_age_days)
        for live_id, policy in models.live_policies(session)
        if policy.drift.max_age_days is not None
    }
    if not limits:
        return []
    anchor = aliased(Version)
    rows = session.execute(
        select(Model, Version, anchor.created_at)
        .join(Version, Version.id == Model.production_id)
        .join(anchor, anchor.id == Version.anchor_id)
        .where(Version.id.in_(limits), anchor.id != Version.id)
        .order_by(Model.id)
    )
    return [(model, live) for model, live, made in rows if now - made > limits[live.id]]


def _is_set_aside(session: Session, model: Model) -> bool:
    """Return whether the last retrain of the live chain lost accuracy and was not approved."""
    last = _last(session, model)
    if last is None or model.production_id is None:
        return False
    made = session.scalar(
        select(Version).where(Version.training_run_id == last.id, Version.batch_id.is_(None))
    )
    return made is not None and approvals.was_set_aside(session, model, made)


def _last(session: Session, model: Model) -> TrainingRun | None:
    return session.scalar(
        select(TrainingRun)
        .where(TrainingRun.model_id == model.id, TrainingRun.reason == "consolidate")
        .order_by(TrainingRun.id.desc())
        .limit(1)
    )


def _ended_in_vain_lately(session: Session, model: Model, *, now: datetime) -> bool:
    last = _last(session, model)
    if last is None or last.finished_at is None:
        return False
    ended = last.status in {RunStatus.FAILED, RunStatus.CANCELLED}
    return ended and now - last.finished_at < PAUSE_AFTER_FAILURE
