"""Models, versions and training runs in their public form, over HTTP and in commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.ledger.batches import approvals
from service.ledger.database import db
from service.ledger.database.tables import Model, TrainingRun, Version
from service.ledger.registry import imports, lineage, margins
from service.ledger.registry import models as registry
from service.ledger.reports import disclosure, history, measurements
from service.ledger.training import asked, runs


def models(session: Session, rows: Sequence[Model]) -> list[dict[str, Any]]:
    """Return models in their public form."""
    names = registry.dataset_names(session, rows)
    numbers = registry.production_numbers(session, rows)
    return [
        {
            "name": row.name,
            "dataset": names[row.dataset_id],
            "status": registry.status(row),
            "error": row.error,
            "architecture": row.architecture,
            "transform": row.transform,
            "recipe": row.recipe,
            "policy": row.policy,
            "production": numbers.get(row.id),
            "run_now_at": row.run_now_at,
            "created_at": row.created_at,
            "withdrawn_at": row.withdrawn_at,
            "purged_at": row.purged_at,
        }
        for row in rows
    ]


def model(session: Session, row: Model) -> dict[str, Any]:
    """Return a model in its public form, with its current work."""
    production = registry.production(session, row)
    active = runs.active(session, row)
    drift = None if production is None else lineage.drift(session, production, now=db.now())
    return {
        **models(session, [row])[0],
        "parameters": row.parameters,
        "tied": row.tied,
        "pending": registry.pending(session, row),
        "active_training_run": None if active is None else active.id,
        "drift": None if drift is None else _drift(drift),
        "margins": margins.describe(session, row, production),
    }


def versions(session: Session, owner: Model, found: Sequence[Version]) -> list[dict[str, Any]]:
    """Return versions of one model in their public form."""
    known = history.numbers(
        session, [one for row in found for one in (row.parent_id, row.anchor_id)]
    )
    verdicts = history.verdicts(session, [row.id for row in found])
    reasons = measurements.reasons(session, found) | approvals.reasons(session, owner, found)
    return [
        {
            "number": row.number,
            "model": owner.name,
            "status": row.status,
            "status_reason": reasons.get(row.id),
            "is_production": row.id == owner.production_id,
            "origin": row.origin,
            "parent": known.get(row.parent_id or 0),
            "anchor": known.get(row.anchor_id or 0),
            "data_revision": row.data_revision,
            "data_rows": row.data_rows,
            "trained_on": row.record_list_id or imports.SPLIT,
            "digest": row.digest,
            "size_bytes": row.size_bytes,
            "training_run": row.training_run_id,
            "batch": row.batch_id,
            "method": row.method,
            "options": row.options,
            "seed": row.seed,
            "code_version": row.code_version,
            "notes": disclosure.notes(row.notes),
            "timings": row.timings,
            "mark": row.mark,
            "verdict": verdicts.get(row.id),
            "created_at": row.created_at,
            "published_at": row.published_at,
            "retired_at": row.retired_at,
            "withdrawn_at": row.withdrawn_at,
            "purge_at": row.purge_at,
            "purged_at": row.purged_at,
        }
        for row in found
    ]


def run(owner: Model, row: TrainingRun, made: Mapping[str, int]) -> dict[str, Any]:
    """Return a training run in its public form; ``made`` has the number of its version."""
    return {
        "id": row.id,
        "model": owner.name,
        "status": row.status.value,
        "reason": row.reason,
        "seed": row.seed,
        "data_revision": row.data_revision,
        "asked_revision": asked.revision(row),
        "progress": row.progress,
        "attempts": row.attempts,
        "error": row.error,
        "version": made.get(row.id),
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }


def _drift(drift: lineage.Drift) -> dict[str, Any]:
    return {
        "anchor": drift.anchor,
        "batches": drift.batches,
        "forgotten": drift.forgotten,
        "anchor_rows": drift.anchor_rows,
        "share": drift.share,
        "class_share": disclosure.class_share(drift.class_share, forgotten=drift.forgotten),
        "age_days": drift.age_days,
    }
