"""The audit report: a signed account of one version that can be checked without trusting anyone.

It names records by keyed digests and requests by their ids. It contains no subject, record id, row
number, per-record score or figure of very few records. ``service.audit_file`` checks a saved one
without a database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain
from service.ledger.audit.signing import Signer
from service.ledger.batches import batch_states
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import (
    Artifact,
    AuditEvent,
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestDataset,
    TrainingRun,
    Version,
)
from service.ledger.obligations import erasures
from service.ledger.registry import encoders, lineage, versions
from service.ledger.reports import caveats, comparisons, disclosure, history, verifications
from service.ledger.selection import exclusions, naming
from service.ledger.selection.digests import Digester
from service.ledger.training import runs

TYPE = "audit-report"
FORMAT = 1

#: Actions of audit lines that hold the receipt of something destroyed.
_DESTROYED = (chain.Action.VERSION_PURGED.value, chain.Action.VERSION_STATE_DESTROYED.value)

#: Kinds of artifacts that a batch computes from the rows that it forgets.
OF_FORGOTTEN = frozenset({"scores", "states"})


@dataclass(frozen=True)
class _Loaded:
    """The rows that a report needs, loaded once."""

    model: Model
    dataset: Dataset
    version: Version
    batch: Batch | None
    requests: Sequence[DeletionRequest]
    chain: Sequence[Version]


def report(
    session: Session, version: Version, *, digester: Digester, signer: Signer, now: datetime
) -> dict[str, Any]:
    """Return the signed report of a version as things stand ``now``."""
    loaded = _load(session, version)
    verification = verifications.of(session, version)
    verdict = None if verification is None else verification.verdict
    remaining = _remaining(session, loaded)
    carried = versions.contains_forgotten(session, loaded.model, version)
    guarantee = _guarantee(version)
    encoder = _encoder(session, loaded)
    return signer.sign(
        {
            "type": TYPE,
            "format": FORMAT,
            "at": now,
            "model": loaded.model.name,
            "dataset": loaded.dataset.name,
            "version": version.number,
            "status": version.status,
            "production": loaded.model.production_id == version.id,
            "asked": _asked(session, loaded, digester),
            "done": _done(session, loaded, digester, guarantee),
            "measured": (
                None
                if verification is None
                else disclosure.measured(verification.measured, verification.set_changes)
            ),
            "encoder": encoder,
            "lineage": _lineage(session, loaded),
            # Requests whose records the version itself still contains: none, if it is live.
            "carries_forgotten": carried,
            "remaining": remaining,
            "purges": _purges(session, loaded),
            "comparison": comparisons.of(session, version),
            "does_not_prove": caveats.sentences(
                guarantee=guarantee,
                # An accuracy drop is a failed verification that did not prevent promotion, and
                # an unconfirmed statement is not a contradicted one.
                verdict=version.mark if version.mark in caveats.OF_MARK else verdict,
                carries=bool(carried),
                remaining=bool(remaining),
                imported=loaded.chain[-1].origin == "imported",
                not_found=sum(request.not_found for request in loaded.requests),
                certified=verification is not None
                and verification.measured.get("certificate") is not None,
                encoder=encoder is not None,
            ),
            "chain": _chain(session, loaded, signer, now),
        }
    )


def _load(session: Session, version: Version) -> _Loaded:
    model = session.get_one(Model, version.model_id)
    batch = None if version.batch_id is None else session.get_one(Batch, version.batch_id)
    return _Loaded(
        model=model,
        dataset=session.get_one(Dataset, model.dataset_id),
        version=version,
        batch=batch,
        requests=[] if batch is None else _requests(session, model, batch),
        chain=lineage.chain(session, version),
    )


def _requests(session: Session, model: Model, batch: Batch) -> Sequence[DeletionRequest]:
    """Return the requests whose erasures the batch did, or else those that named its rows."""
    wanted = select(DeletionRequest).order_by(DeletionRequest.id)
    theirs = select(Erasure.request_id).where(erasures.of_batch(batch))
    found = session.scalars(wanted.where(DeletionRequest.id.in_(theirs))).all()
    if found:
        return found
    # A new anchor that catches up forgets what earlier batches did on the anchor before it, and a
    # failed batch has handed its erasures back.
    forgotten = exists().where(BatchRecord.batch_id == batch.id, BatchRecord.row == Record.row)
    named = session.scalars(naming.naming(Record.dataset_id == model.dataset_id, forgotten)).all()
    return session.scalars(wanted.where(DeletionRequest.id.in_(named))).all()


def _asked(session: Session, loaded: _Loaded, digester: Digester) -> dict[str, Any]:
    ids = [request.id for request in loaded.requests]
    rows = session.execute(
        naming.records(
            Record.record_id,
            Record.row,
            Record.erased_at,
            requests=ids,
            # Of a request over every dataset, only its records in this one.
            dataset_id=loaded.dataset.id,
        )
    ).all()
    forgotten_before = _forgotten_before(session, loaded)
    named: dict[str, list[str]] = {request_id: [] for request_id in ids}
    overwritten: dict[int, datetime | None] = {}
    for request_id, record_id, row, erased_at in rows:
        named[request_id].append(digester.record(loaded.dataset.name, record_id))
        overwritten[row] = erased_at
    moments = [moment for moment in overwritten.values() if moment is not None]
    return {
        "requests": [
            _request(item, sorted(named[item.id]), forgotten_before.get(item.id))
            for item in loaded.requests
        ],
        "counts": {"requests": len(ids), "records": len(overwritten)},
        "raw_rows": {
            "records": len(overwritten),
            "overwritten": len(moments),
            "last_at": max(moments, default=None),
        },
    }


def _forgotten_before(session: Session, loaded: _Loaded) -> dict[str, int]:
    """Return, per request over every dataset, how many records here were forgotten before."""
    rows = session.execute(
        select(RequestDataset.request_id, RequestDataset.already_forgotten).where(
            RequestDataset.request_id.in_([request.id for request in loaded.requests]),
            RequestDataset.dataset_id == loaded.dataset.id,
        )
    )
    return dict(rows.all())


def _request(
    request: DeletionRequest, records: list[str], forgotten_before: int | None
) -> dict[str, Any]:
    """Return a request's part in this dataset; ``forgotten_before`` None: it has no other part."""
    alone = forgotten_before is None
    return {
        "id": request.id,
        "kind": request.kind,
        "label": request.label,
        "status": request.status,
        "created_at": request.created_at,
        "due_at": request.due_at,
        "completed_at": request.completed_at,
        "matched": request.matched if alone else len(records),
        "already_forgotten": request.already_forgotten if alone else forgotten_before,
        "not_found": request.not_found,
        "records": records,
    }


def _done(
    session: Session, loaded: _Loaded, digester: Digester, guarantee: caveats.Guarantee
) -> dict[str, Any]:
    version, base = loaded.version, loaded.chain[1] if len(loaded.chain) > 1 else None
    if base is None and version.parent_id is not None:  # an anchor made by a batch: a retrain
        base = session.get_one(Version, version.parent_id)
    anchor = session.get_one(Version, version.anchor_id)
    return {
        "origin": version.origin,
        "guarantee": guarantee,
        "method": version.method,
        "options": version.options,
        "seed": version.seed,
        "code_version": version.code_version,
        "base": None if base is None else _name(base),
        "anchor": _name(anchor),
        "digest_before": None if base is None else base.digest,
        "digest_after": version.digest,
        "size_bytes": version.size_bytes,
        "mark": version.mark,
        "notes": disclosure.notes(
            {k: v for k, v in version.notes.items() if k != comparisons.NOTE}
        ),
        "timings": version.timings,
        "created_at": version.created_at,
        "published_at": version.published_at,
        "retired_at": version.retired_at,
        "withdrawn_at": version.withdrawn_at,
        "purged_at": version.purged_at,
        "batch": _batch(session, loaded, digester),
        "training_run": _training_run(session, version),
        "never_trained_on": _excluded(session, loaded, anchor, digester),
    }


def _encoder(session: Session, loaded: _Loaded) -> dict[str, Any] | None:
    """Return the encoder that the model is built on, and what is stated of its training data."""
    own = loaded.model.architecture["parameters"].get("encoder")
    digest = own or (loaded.dataset.input or {}).get("options", {}).get("encoder")
    if digest is None:
        return None
    return {
        "digest": digest,
        "statements": [
            {
                "name": one.name,
                "statement": one.statement,
                "by": one.created_by,
                "at": one.created_at,
            }
            for one in encoders.of_digest(session, digest)
        ],
    }


def _batch(session: Session, loaded: _Loaded, digester: Digester) -> dict[str, Any] | None:
    batch = loaded.batch
    if batch is None:
        return None
    wanted = (
        select(Record.record_id)
        .join(BatchRecord, BatchRecord.row == Record.row)
        .where(Record.dataset_id == loaded.dataset.id, BatchRecord.batch_id == batch.id)
    )
    records = _digests(session.scalars(wanted), loaded, digester)
    return {
        "id": batch.id,
        "kind": batch.kind,
        "status": batch.status,
        "attempts": batch.attempts,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
        # Only training rows of the base: a request may also name rows that it never saw.
        "count": len(records),
        "records": records,
    }


def _training_run(session: Session, version: Version) -> dict[str, Any] | None:
    if version.training_run_id is None:
        return None
    run = session.get_one(TrainingRun, version.training_run_id)
    return {
        "id": run.id,
        "reason": run.reason,
        "seed": run.seed,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def _excluded(
    session: Session, loaded: _Loaded, anchor: Version, digester: Digester
) -> dict[str, Any]:
    """Return the records forgotten before the anchor was trained."""
    wanted = select(Record.record_id).where(
        exclusions.between(loaded.dataset.id, until=anchor.data_revision)
    )
    records = _digests(session.scalars(wanted), loaded, digester)
    return {
        "data_revision": anchor.data_revision,
        "count": len(records),
        "digest": canonical.digest(records),
    }


def _lineage(session: Session, loaded: _Loaded) -> list[dict[str, Any]]:
    """Return the version's chain, newest first, with the number of records each step forgot."""
    steps = [version.batch_id for version in loaded.chain if version.batch_id is not None]
    forgotten = history.records(session, steps)
    return [
        {
            **_name(version),
            "origin": version.origin,
            "method": version.method,
            "status": version.status,
            "batch": version.batch_id,
            "forgotten": forgotten.get(version.batch_id or "", 0),
            "created_at": version.created_at,
        }
        for version in loaded.chain
    ]


def _remaining(session: Session, loaded: _Loaded) -> list[dict[str, Any]]:
    """Return weights and internal state of the model that still contain forgotten records."""
    standing = session.scalars(
        select(Version)
        .where(Version.model_id == loaded.model.id, Version.status != VersionStatus.PURGED)
        .order_by(Version.number)
    ).all()
    # Retired versions contain forgotten records by definition. There may be thousands. Withdrawn
    # ones may have been retired or rejected before.
    containing = [
        version
        for version in standing
        if version.status in (VersionStatus.RETIRED, VersionStatus.WITHDRAWN)
        # Its verification did not show that it forgot.
        or (version.status == VersionStatus.REJECTED and version.batch_id is not None)
        or versions.holds_forgotten(session, loaded.model, version)
    ]
    weights = [
        {
            "kind": "weights",
            "version": version.number,
            "digest": version.digest,
            "size_bytes": version.size_bytes,
            "status": version.status,
            "retired_at": version.retired_at,
        }
        for version in containing
    ]
    return [
        *weights,
        *_artifacts(session, loaded, {version.id for version in containing}),
        *_kept_states(session, loaded),
    ]


def _kept_states(session: Session, loaded: _Loaded) -> list[dict[str, Any]]:
    """Return states of trainings that have seen records forgotten since they began."""
    of_runs = [
        {"kind": "trainings", "training_run": run.id, "digest": run.state_digest}
        for run in runs.that_saw_forgotten(session, loaded.model)
        if run.state_digest is not None
    ]
    of_batches = [
        {"kind": "trainings", "batch": state.batch_id, "digest": state.digest}
        for state in batch_states.that_saw_forgotten(session, loaded.model)
    ]
    return of_runs + of_batches


def _artifacts(session: Session, loaded: _Loaded, containing: set[int]) -> list[dict[str, Any]]:
    """Return artifacts of versions in ``containing``, and those computed from forgotten rows."""
    rows = session.execute(
        select(Artifact, Version)
        .join(Version, Version.id == Artifact.version_id)
        .where(Version.model_id == loaded.model.id, Artifact.destroyed_at.is_(None))
        .order_by(Artifact.id)
    )
    return [
        {
            "kind": artifact.kind,
            "version": owner.number,
            "digest": artifact.digest,
            "size_bytes": artifact.size_bytes,
            "created_at": artifact.created_at,
        }
        for artifact, owner in rows
        if owner.id in containing or (owner.batch_id is not None and artifact.kind in OF_FORGOTTEN)
    ]


def _purges(session: Session, loaded: _Loaded) -> list[dict[str, Any]]:
    """Return signed receipts of what was destroyed of this model."""
    purged = session.scalars(select(Version).where(Version.model_id == loaded.model.id))
    lines = session.scalars(
        select(AuditEvent)
        .where(
            AuditEvent.action.in_(_DESTROYED),
            AuditEvent.subject.in_([versions.subject(loaded.model, item) for item in purged]),
        )
        .order_by(AuditEvent.seq)
    )
    return [
        {"line": line.seq, "subject": line.subject, "receipt": line.data.get("receipt")}
        for line in lines
    ]


def _chain(session: Session, loaded: _Loaded, signer: Signer, now: datetime) -> dict[str, Any]:
    """Return the audit lines about the version, its batch and its requests, and the signed head."""
    subjects = [versions.subject(loaded.model, loaded.version)]
    subjects += [f"deletion_request:{request.id}" for request in loaded.requests]
    if loaded.batch is not None:
        subjects.append(f"batch:{loaded.batch.id}")
    run = loaded.version.training_run_id
    of_the_model = [] if run is None else [f"model:{loaded.model.name}"]
    found = session.scalars(
        select(AuditEvent)
        .where(AuditEvent.subject.in_(subjects + of_the_model))
        .order_by(AuditEvent.seq)
    )
    lines = [
        chain.describe(line)
        for line in found
        if line.subject in subjects or line.data.get("training_run") == run
    ]
    return {"lines": lines, "head": chain.checkpoint(session, signer, now=now)}


def _guarantee(version: Version) -> caveats.Guarantee:
    if version.origin == "imported":
        return "unknown"
    return "exact" if version.anchor_id == version.id else "approximate"


def _name(version: Version) -> dict[str, Any]:
    return {"version": version.number, "digest": version.digest}


def _digests(record_ids: Any, loaded: _Loaded, digester: Digester) -> list[str]:
    return sorted(digester.record(loaded.dataset.name, record_id) for record_id in record_ids)
