"""The tombstone list: what a restored backup must not bring back.

A signed document with every deletion request, the keyed digests of its records, and the names of
everything withdrawn. It is exported after each backup, or more often, and kept apart from the
backups. After a restore, ledger and store are compared with it (``differences``) and it is replayed
(``service.ledger.restore.replay``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain, signing
from service.ledger.audit.signing import Signer
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    ApiKey,
    AuditHead,
    Dataset,
    DeletionRequest,
    LegalHold,
    Record,
)
from service.ledger.requests import suppression_lists
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.suppression_lists import Entry as Suppressed
from service.ledger.restore import withdrawal_lists
from service.ledger.restore.withdrawal_lists import Withdrawals
from service.ledger.selection import naming
from service.ledger.selection.digests import Digester
from service.ledger.selection.regulations import Regulation

TYPE = "tombstones"
FORMAT = 1


class Listed(BaseModel):
    """A deletion request as an entry of the list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    #: None: a subject in every dataset.
    dataset: str | None
    kind: Literal["records", "subject", "class"]
    label: int | None
    status: RequestStatus
    principal: str
    already_forgotten: int
    not_found: int
    created_at: AwareDatetime
    due_at: AwareDatetime
    #: By which rule it is due, how often it was extended, when the person asked if not at
    #: ``created_at``; lists of earlier releases do not say it.
    regulation: Regulation | None = None
    extensions: int | None = None
    asked_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None
    records: list[str]
    #: Of a request over every dataset: records by dataset, in place of ``records``.
    by_dataset: dict[str, list[str]] = {}
    #: Code of the legal hold in force; lists of earlier releases do not say it.
    legal_hold: HoldReason | None = None

    @property
    def says_period(self) -> bool:
        """Return whether the list says by which rule the request is due."""
        return "extensions" in self.model_fields_set

    def named(self) -> Mapping[str, list[str]]:
        """Return digests of the records by the dataset's name."""
        return self.by_dataset if self.dataset is None else {self.dataset: self.records}


class Head(BaseModel):
    """An end of the audit chain: the number and the hash of its last line."""

    seq: int
    hash: str


class Tombstones(BaseModel):
    """A list that was read and whose signature is valid."""

    model_config = ConfigDict(frozen=True)

    type: Literal["tombstones"]
    format: Literal[1]
    at: AwareDatetime
    #: The end of the audit chain when it was made.
    head: Head
    requests: list[Listed]
    withdrawn: Withdrawals = withdrawal_lists.NONE
    revoked_keys: list[str]
    #: Lists of earlier releases have none.
    suppressions: list[Suppressed] = []


class NotTombstones(ValueError):
    """The document is not a tombstone list of this service; the message says why."""


def export(
    session: Session, *, digester: Digester, signer: Signer, now: datetime
) -> dict[str, Any]:
    """Return the signed list of the present state."""
    chain.write(session)
    head = session.execute(select(AuditHead.seq, AuditHead.hash).where(AuditHead.id == 1)).one()
    revoked = select(ApiKey.id).where(ApiKey.revoked_at.is_not(None)).order_by(ApiKey.id)
    return signer.sign(
        {
            "type": TYPE,
            "format": FORMAT,
            "at": now,
            "head": {"seq": head.seq, "hash": head.hash},
            "requests": _requests(session, digester),
            "withdrawn": withdrawal_lists.of_ledger(session).model_dump(),
            "revoked_keys": list(session.scalars(revoked)),
            "suppressions": [one.model_dump() for one in suppression_lists.entries(session)],
        }
    )


def read(content: bytes, *, keys: signing.Keys) -> Tombstones:
    """Return the list in these bytes; raise ``NotTombstones`` unless one of ``keys`` signed it."""
    try:
        document = canonical.decode(content)
        if not isinstance(document, dict) or document.get("type") != TYPE:
            raise NotTombstones("this is no tombstone list; make one with: unlearn restore export")
        signing.check(document, keys)
        return Tombstones.model_validate(document)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise NotTombstones(f"the list cannot be read at {where}") from None
    except NotTombstones:
        raise
    except ValueError as error:
        raise NotTombstones(str(error)) from None


def _requests(session: Session, digester: Digester) -> list[dict[str, Any]]:
    rows = session.execute(
        select(DeletionRequest, Dataset.name)
        .outerjoin(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(DeletionRequest.status != RequestStatus.NO_MATCH)
        .order_by(DeletionRequest.id)
    ).all()
    on_hold = legal_holds(session)
    records: dict[str, dict[str, list[str]]] = {request.id: {} for request, _ in rows}
    names = dict(session.execute(select(Dataset.id, Dataset.name)).all())
    named = session.execute(naming.records(Record.dataset_id, Record.record_id))
    for request_id, dataset_id, record_id in named:
        name = names[dataset_id]
        if request_id in records:
            digests = records[request_id].setdefault(name, [])
            digests.append(digester.record(name, record_id))
    return [
        Listed(
            **{field: getattr(request, field) for field in _COPIED},
            dataset=name,
            records=sorted(records[request.id].get(name, [])) if name else [],
            by_dataset={} if name else {at: sorted(d) for at, d in records[request.id].items()},
            legal_hold=on_hold.get(request.id),
        ).model_dump()
        for request, name in rows
    ]


_NAMED = ("dataset", "records", "by_dataset", "legal_hold")
_COPIED = tuple(name for name in Listed.model_fields if name not in _NAMED)


def legal_holds(session: Session) -> dict[str, HoldReason]:
    """Return the codes of the legal holds in force, by request."""
    in_force = select(LegalHold.request_id, LegalHold.reason_code).where(
        LegalHold.released_at.is_(None)
    )
    return {request_id: HoldReason(code) for request_id, code in session.execute(in_force)}
