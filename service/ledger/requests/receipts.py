"""The receipt of a deletion request: a signed document that can be handed to the person.

It holds no figure about others, no id of another request or of a batch, nobody's name, and no free
text that operators wrote for each other. ``service.audit_file`` checks a saved one offline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from service.ledger.audit import canonical, chain
from service.ledger.audit.signing import Signer
from service.ledger.database import db
from service.ledger.database.states import REQUEST_ENDS, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    AuditEvent,
    DeletionRequest,
    Erasure,
    LegalHold,
    Model,
    Record,
    Verification,
    Version,
)
from service.ledger.registry.policy import Policy
from service.ledger.requests import holders
from service.ledger.requests import receipt_words as words
from service.ledger.requests.suppressions import SUPPRESSING
from service.ledger.selection import naming
from service.ledger.selection.regulations import Regulation

TYPE = "deletion-receipt"
FORMAT = 1

#: States of a request in which nothing is, or will be, deleted because of it.
NOTHING_DONE = frozenset({RequestStatus.NO_MATCH, RequestStatus.CANCELLED, RequestStatus.DENIED})

#: Lines of the chain that say how a request ended.
_ENDS = {
    RequestStatus.NO_MATCH: chain.Action.DELETION_REQUEST_NO_MATCH,
    RequestStatus.CANCELLED: chain.Action.DELETION_REQUEST_CANCELLED,
    RequestStatus.DENIED: chain.Action.DELETION_REQUEST_DENIED,
    RequestStatus.COMPLETED: chain.Action.DELETION_REQUEST_COMPLETED,
}


@dataclass(frozen=True)
class _Share:
    """A model's part in the request."""

    erasure: Erasure
    model: Model
    version: Version | None
    verification: Verification | None


def receipt(
    session: Session, request: DeletionRequest, *, signer: Signer, now: datetime
) -> dict[str, Any]:
    """Return the signed receipt of a request as things stand ``now``."""
    shares = _shares(session, request)
    lines = _lines(session, request)
    holds = _legal_holds(session, request)
    rows = _raw_rows(session, request)
    remains = _remains(session, request, shares, rows)
    return signer.sign(
        {
            "type": TYPE,
            "format": FORMAT,
            "at": now,
            "request": _request(request),
            "found": _found(request),
            "state": request.status,
            "says": _says(request),
            "ended_at": _ended_at(request, lines),
            "refusal": _refusal(request),
            "legal_holds": holds,
            "models": [_model(share) for share in shares],
            "raw_rows": rows,
            "remains": remains,
            "does_not_prove": words.NOT_PROVED,
            "how_to_check": words.HOW_TO_CHECK,
            "chain": {
                "lines": [_line(line) for line in lines],
                "head": chain.checkpoint(session, signer, now=now),
            },
        }
    )


def _request(request: DeletionRequest) -> dict[str, Any]:
    """Return what was asked for, and by when it is due."""
    return {
        "id": request.id,
        "kind": request.kind,
        "label": request.label,
        "received_at": request.created_at,
        "due_at": request.due_at,
        "regulation": request.regulation or Regulation.GDPR.value,
        "extensions": request.extensions or 0,
        # Written for the person.
        "extension_reason": request.extension_reason,
    }


def _found(request: DeletionRequest) -> dict[str, int] | None:
    """Return the numbers of the person's records; None for a class, whose records are others'."""
    if request.kind == "class":
        return None
    return {
        "records": request.matched,
        "forgotten_before": request.already_forgotten,
        "not_found": request.not_found,
    }


def _says(request: DeletionRequest) -> list[str]:
    """Return in sentences what the request's state means."""
    if request.status == RequestStatus.COMPLETED and not request.matched:
        return [words.FORGOTTEN_BEFORE]
    held = request.legal_hold_id is not None and request.status not in REQUEST_ENDS
    return [words.OF_STATE[request.status], *([words.UNDER_HOLD] if held else [])]


def _ended_at(request: DeletionRequest, lines: Iterable[AuditEvent]) -> datetime | None:
    if request.status not in REQUEST_ENDS:
        return None
    if request.completed_at is not None:
        return request.completed_at
    said = [line.at for line in lines if line.action == _ENDS[request.status].value]
    return max(said, default=None)


def _refusal(request: DeletionRequest) -> dict[str, Any] | None:
    if request.status != RequestStatus.DENIED:
        return None
    gdpr = (request.regulation or Regulation.GDPR.value) == Regulation.GDPR.value
    return {
        "code": request.denial_code or "other",
        "because": words.denial(request.denial_code),
        "rights": words.RIGHTS if gdpr else None,
    }


def _legal_holds(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    found = session.scalars(
        select(LegalHold).where(LegalHold.request_id == request.id).order_by(LegalHold.placed_at)
    )
    return [
        {
            "code": one.reason_code,
            "because": words.hold(one.reason_code),
            "placed_at": one.placed_at,
            "released_at": one.released_at,
        }
        for one in found
    ]


def _shares(session: Session, request: DeletionRequest) -> Sequence[_Share]:
    found = session.execute(
        select(Erasure, Model, Version, Verification)
        .join(Model, Model.id == Erasure.model_id)
        .outerjoin(Version, Version.id == Erasure.version_id)
        .outerjoin(Verification, Verification.version_id == Version.id)
        .where(Erasure.request_id == request.id)
        .order_by(Model.name)
    )
    return [_Share(*row) for row in found]


def _model(share: _Share) -> dict[str, Any]:
    """Return what one model did; batches and numbers of versions would tell of others."""
    done = share.erasure.status == ErasureStatus.COMPLETED
    result = _result(share) if done else None
    verdict = _verdict(share) if result in ("certified", "approximate") else None
    said = words.OF_RESULT[result] if result else words.OF_SHARE[share.erasure.status]
    if result == "certified" and "distance_bound" in _certificate(share):
        said = words.WITHIN_A_BOUND
    measured = words.OF_VERDICT.get(verdict) if verdict else None
    return {
        "model": share.model.name,
        "state": share.erasure.status,
        "completed_at": share.erasure.completed_at,
        "result": result,
        "verdict": verdict,
        "weights": share.version.digest if done and share.version is not None else None,
        "says": [said, *([measured] if measured else [])],
    }


def _result(share: _Share) -> words.Result:
    version = share.version
    if version is None:
        return "withdrawn"
    if version.origin == "imported":
        return "unknown"
    if _certificate(share):
        return "certified"
    return "exact" if version.anchor_id == version.id else "approximate"


def _certificate(share: _Share) -> Mapping[str, Any]:
    found = None if share.verification is None else share.verification.measured.get("certificate")
    return found or {}


def _verdict(share: _Share) -> str | None:
    if share.version is not None and share.version.mark in words.OF_VERDICT:
        return share.version.mark
    return None if share.verification is None else share.verification.verdict


def _raw_rows(session: Session, request: DeletionRequest) -> dict[str, Any] | None:
    """Return how far the stored rows are overwritten, without counts for a class.

    None if no row is to be overwritten because of this request.
    """
    if request.status in NOTHING_DONE or not request.matched:
        return None
    named = naming.records(Record.erased_at, Record.row, requests=[request.id]).subquery()
    rows, overwritten, last = session.execute(
        select(
            func.count(), func.count(named.c.erased_at), func.max(named.c.erased_at)
        ).select_from(named)
    ).one()
    counted = request.kind != "class"
    return {
        "rows": rows if counted else None,
        "overwritten": overwritten if counted else None,
        "all_overwritten": rows == overwritten,
        "last_at": last,
    }


def _remains(
    session: Session,
    request: DeletionRequest,
    shares: Sequence[_Share],
    rows: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """Return what still exists: of the records, and of the request."""
    found: list[dict[str, Any]] = []
    if request.status not in NOTHING_DONE:
        held = holders.of(session, request)
        if any(one.still for one in held.models.values()):
            found.append({"what": "models_in_use", "says": words.LIVE_HOLDS, "until": None})
        if rows is not None and not rows["all_overwritten"]:
            found.append({"what": "stored_rows", "says": words.ROWS_STAND, "until": None})
        found += _earlier_weights(session, shares)
    if request.kind == "subject" and request.status in SUPPRESSING:
        found.append({"what": "keyed_digest", "says": words.KEYED_DIGEST, "until": None})
    found.append({"what": "record_of_the_request", "says": words.RECORD, "until": None})
    return found


def _earlier_weights(session: Session, shares: Sequence[_Share]) -> list[dict[str, Any]]:
    """Return whether weights that contain the records stand, and until when."""
    standing = (VersionStatus.RETIRED, VersionStatus.WITHDRAWN, VersionStatus.REJECTED)
    live = aliased(Version)
    rows = session.execute(
        select(Version, Model.policy, live.anchor_id, live.parent_id)
        .join(Model, Model.id == Version.model_id)
        .outerjoin(live, live.id == Model.production_id)
        .where(
            Version.model_id.in_([share.model.id for share in shares]),
            db.among(Version.status, *standing),
        )
    ).all()
    # Versions after the one that forgot the records are retired because of others.
    first = {share.model.id: share.version.number for share in shares if share.version is not None}
    rows = [row for row in rows if row[0].number < first.get(row[0].model_id, row[0].number + 1)]
    needed = [version.id in (anchor, parent) for version, _, anchor, parent in rows]
    ends = [
        (version.purge_at or (version.retired_at or version.created_at) + _window(policy))
        for (version, policy, _, _), is_needed in zip(rows, needed, strict=True)
        if not is_needed
    ]
    found: list[dict[str, Any]] = []
    if ends:
        until = max(ends)
        found.append({"what": "earlier_weights", "says": words.EARLIER_WEIGHTS, "until": until})
    if any(needed):
        found.append({"what": "weights_in_need", "says": words.WEIGHTS_NEEDED, "until": None})
    return found


def _window(policy: dict[str, Any]) -> timedelta:
    return timedelta(seconds=Policy.model_validate(policy).purge_after_seconds)


def _lines(session: Session, request: DeletionRequest) -> Sequence[AuditEvent]:
    """Return the audit lines about the request alone: a batch's line names others."""
    return session.scalars(
        select(AuditEvent)
        .where(AuditEvent.subject == f"deletion_request:{request.id}")
        .order_by(AuditEvent.seq)
    ).all()


def _line(line: AuditEvent) -> dict[str, Any]:
    """Return a line's place, moment and hash; its data is for operators."""
    return {
        "seq": line.seq,
        "at": canonical.moment(line.at),
        "action": line.action,
        "hash": line.hash,
    }
