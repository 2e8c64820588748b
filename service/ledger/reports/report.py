"""The audit report: a signed account of one version that can be checked without trusting anyone.

It names records by keyed digests and requests by their ids. It contains no subject, record id, row
number, per-record score or figure of very few records. ``service.audit_file`` checks a saved one
without a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.audit.signing import Signer
from service.ledger.database.tables import AuditEvent, Version
from service.ledger.registry import forgotten, versions
from service.ledger.reports import (
    caveats,
    comparisons,
    disclosure,
    history,
    report_asked,
    report_done,
    report_loaded,
    report_remaining,
    verifications,
)
from service.ledger.selection.digests import Digester

TYPE = "audit-report"
FORMAT = 1


def report(
    session: Session, version: Version, *, digester: Digester, signer: Signer, now: datetime
) -> dict[str, Any]:
    """Return the signed report of a version as things stand ``now``."""
    loaded = report_loaded.load(session, version)
    verification = verifications.of(session, version)
    verdict = None if verification is None else verification.verdict
    remaining = report_remaining.remaining(session, loaded)
    carried = forgotten.requests_in(session, loaded.model, version)
    certificate = None if verification is None else verification.measured.get("certificate")
    guarantee = _guarantee(version, certificate)
    encoder = report_done.encoder(session, loaded)
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
            "asked": report_asked.asked(session, loaded, digester),
            "done": report_done.done(session, loaded, digester, guarantee),
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
            "purges": report_remaining.purges(session, loaded),
            "comparison": comparisons.of(session, version),
            "does_not_prove": caveats.sentences(
                guarantee=guarantee,
                # An accuracy drop is a failed verification that did not prevent promotion, and
                # an unconfirmed statement is not a contradicted one.
                verdict=version.mark if version.mark in caveats.OF_MARK else verdict,
                carries=bool(carried),
                remaining=any(one["kind"] != report_remaining.COPIES for one in remaining),
                copied=any(one["kind"] == report_remaining.COPIES for one in remaining),
                imported=loaded.chain[-1].origin == "imported",
                not_found=sum(request.not_found for request in loaded.requests),
                solved=certificate is not None and guarantee == "exact",
                encoder=encoder is not None,
                learned=bool((loaded.dataset.input or {}).get("learned")),
            ),
            "chain": _chain(session, loaded, signer, now),
        }
    )


def _lineage(session: Session, loaded: report_loaded.Loaded) -> list[dict[str, Any]]:
    """Return the version's chain, newest first, with the number of records each step forgot."""
    steps = [version.batch_id for version in loaded.chain if version.batch_id is not None]
    counts = history.records(session, steps)
    return [
        {
            **report_loaded.name(version),
            "origin": version.origin,
            "method": version.method,
            "status": version.status,
            "batch": version.batch_id,
            "forgotten": counts.get(version.batch_id or "", 0),
            "created_at": version.created_at,
        }
        for version in loaded.chain
    ]


def _chain(
    session: Session, loaded: report_loaded.Loaded, signer: Signer, now: datetime
) -> dict[str, Any]:
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


def _guarantee(version: Version, certificate: Mapping[str, Any] | None) -> caveats.Guarantee:
    if version.origin == "imported":
        return "unknown"
    if version.anchor_id != version.id:
        return "approximate"
    return "certified" if "distance_bound" in (certificate or {}) else "exact"
