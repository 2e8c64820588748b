"""The tombstone list: what a restored backup must not bring back.

A signed document with every deletion request, the keyed digests of its records, and the names of
everything withdrawn. It is exported after each backup, or more often, and kept apart from the
backups. After a restore, ledger and store are compared with it (``compare``) and it is replayed
(``service.ledger.restore.replay``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain, signing
from service.ledger.audit.signing import Signer
from service.ledger.database.states import REQUEST_ENDS, DatasetStatus, RequestStatus
from service.ledger.database.tables import (
    ApiKey,
    AuditHead,
    Dataset,
    DeletionRequest,
    Exclusion,
    LegalHold,
    Model,
    Record,
    Version,
)
from service.ledger.registry import lineage
from service.ledger.requests import suppression_lists
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.suppression_lists import Entry as Suppressed
from service.ledger.restore import withdrawal_lists
from service.ledger.restore.withdrawal_lists import Withdrawals
from service.ledger.selection import naming
from service.ledger.selection.digests import Digester

TYPE = "tombstones"
FORMAT = 1

#: States of requests whose records are being, or were, forgotten.
FORGETTING = frozenset(
    {
        RequestStatus.ACCEPTED,
        RequestStatus.PROCESSING,
        RequestStatus.COMPLETED,
        RequestStatus.NEEDS_REVIEW,
    }
)
#: Requests that ended without forgetting anything.
WITHDRAWN = frozenset({RequestStatus.CANCELLED, RequestStatus.DENIED})

#: Rows that are overwritten in the files, by the dataset's name.
Overwritten = Mapping[str, Collection[int]]


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
    completed_at: AwareDatetime | None
    records: list[str]
    #: Of a request over every dataset: records by dataset, in place of ``records``.
    by_dataset: dict[str, list[str]] = {}
    #: Code of the legal hold in force; lists of earlier releases do not say it.
    legal_hold: HoldReason | None = None

    def named(self) -> Mapping[str, list[str]]:
        """Return digests of the records by the dataset's name."""
        return self.by_dataset if self.dataset is None else {self.dataset: self.records}


class _Head(BaseModel):
    seq: int
    hash: str


class Tombstones(BaseModel):
    """A list that was read and whose signature is valid."""

    model_config = ConfigDict(frozen=True)

    type: Literal["tombstones"]
    format: Literal[1]
    at: AwareDatetime
    #: The end of the audit chain when it was made.
    head: _Head
    requests: list[Listed]
    withdrawn: Withdrawals = withdrawal_lists.NONE
    revoked_keys: list[str]
    #: Lists of earlier releases have none.
    suppressions: list[Suppressed] = []


class NotTombstones(ValueError):
    """The document is not a tombstone list of this service; the message says why."""


@dataclass(frozen=True)
class Found:
    """Differences between the list and ledger and files; rows by dataset name."""

    #: Requests of the list that the ledger does not know.
    lost: tuple[Listed, ...] = ()
    #: Requests that ended in the list and are open again in the ledger.
    reopened: tuple[Listed, ...] = ()
    #: Requests that the list has in a later state than the ledger.
    behind: tuple[Listed, ...] = ()
    #: Requests of the list under a legal hold that the ledger lacks, and those whose hold in the
    #: ledger was released since.
    unheld: tuple[Listed, ...] = ()
    released: tuple[Listed, ...] = ()
    #: Listed records that training would read again: nothing excludes them, no open request
    #: names them.
    in_training: Mapping[str, list[int]] = field(default_factory=dict)
    #: Rows forgotten according to ledger or list whose raw bytes are in the file.
    raw: Mapping[str, list[int]] = field(default_factory=dict)
    #: Of these, the rows that the ledger counts as erased.
    raw_again: Mapping[str, list[int]] = field(default_factory=dict)
    #: Rows erased in the file that the ledger counts as present.
    erased_in_file: Mapping[str, list[int]] = field(default_factory=dict)
    #: (model, version, records) of live versions that contain records of completed requests.
    live: tuple[tuple[str, int, int], ...] = ()
    #: Datasets of the list that the ledger does not have.
    unknown_datasets: tuple[str, ...] = ()
    #: Withdrawn in the list and not in the ledger.
    served_again: Withdrawals = withdrawal_lists.NONE
    #: API keys revoked in the list and valid in the ledger.
    keys: tuple[str, ...] = ()
    #: Suppressions that the ledger lacks, or that were lifted in the list.
    suppressions: tuple[Suppressed, ...] = ()
    #: Whether the chain still has the list's head; shorter: lines are missing at its end.
    chain: Literal["whole", "shorter", "another"] = "whole"

    @cached_property
    def clean(self) -> bool:
        """Return whether nothing came back."""
        return not any(
            (
                self.lost,
                self.reopened,
                self.behind,
                self.unheld,
                self.released,
                any(self.in_training.values()),
                any(self.raw.values()),
                any(self.erased_in_file.values()),
                self.live,
                self.served_again,
                self.keys,
                self.suppressions,
            )
        )


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


def compare(
    session: Session, listed: Tombstones, *, digester: Digester, overwritten: Overwritten
) -> Found:
    """Compare the list with the ledger and with the rows overwritten in the array files."""
    ours = dict(session.execute(select(DeletionRequest.id, DeletionRequest.status)).all())
    lost, reopened, behind = _requests_apart(listed.requests, ours)
    unheld, released = _holds_apart(listed.requests, ours, _holds(session))
    places = match(session, listed.requests, digester=digester)
    # Of a dataset that the list has as withdrawn every row is destroyed again.
    whole = [name for name in _ready(session) if name not in listed.withdrawn.datasets]
    rows = {name: _Rows.load(session, name) for name in whole}
    done = {one.id for one in listed.requests if one.status == RequestStatus.COMPLETED}
    named: dict[str, set[int]] = {name: set() for name in rows}
    finished: dict[str, set[int]] = {name: set() for name in rows}
    for one in listed.requests:
        for name, its_rows in places[one.id].items():
            if name in rows and one.status in FORGETTING:
                named[name] |= its_rows
                if one.id in done:
                    finished[name] |= its_rows
    flat = {name: set(overwritten.get(name, ())) for name in rows}
    return Found(
        lost=lost,
        reopened=reopened,
        behind=behind,
        unheld=unheld,
        released=released,
        in_training={
            name: sorted(named[name] - own.excluded - own.asked) for name, own in rows.items()
        },
        raw={
            name: sorted((finished[name] | own.erased) - flat[name]) for name, own in rows.items()
        },
        raw_again={name: sorted(own.erased - flat[name]) for name, own in rows.items()},
        erased_in_file={name: sorted(flat[name] - own.erased) for name, own in rows.items()},
        live=_live(session, finished),
        unknown_datasets=_unknown(session, listed.requests),
        served_again=withdrawal_lists.served_again(session, listed.withdrawn),
        keys=_keys_back(session, listed.revoked_keys),
        suppressions=tuple(suppression_lists.apart(session, listed.suppressions)),
        chain=_chain(session, listed.head),
    )


def match(
    session: Session, requests: Iterable[Listed], *, digester: Digester
) -> dict[str, dict[str, set[int]]]:
    """Return the rows that each listed request names, by its id and the dataset."""
    requests = list(requests)
    rows: dict[str, dict[str, int]] = {}
    for name in {name for one in requests for name in one.named()}:
        records = session.execute(
            select(Record.record_id, Record.row)
            .join(Dataset, Dataset.id == Record.dataset_id)
            .where(Dataset.name == name, Dataset.ready_at.is_not(None))
        )
        rows[name] = {
            digest: row
            for record_id, row in records
            for digest in digester.record_candidates(name, record_id)
        }
    return {
        one.id: {
            name: {rows[name][digest] for digest in digests if digest in rows[name]}
            for name, digests in one.named().items()
        }
        for one in requests
    }


@dataclass(frozen=True)
class _Rows:
    """What the ledger records of a dataset's rows."""

    excluded: set[int]
    erased: set[int]
    #: Named by a request that is open.
    asked: set[int]

    @classmethod
    def load(cls, session: Session, name: str) -> _Rows:
        rows = session.execute(
            select(Exclusion.row, Exclusion.standing)
            .join(Dataset, Dataset.id == Exclusion.dataset_id)
            .where(Dataset.name == name)
        ).all()
        open_ones = DeletionRequest.status.in_(FORGETTING - {RequestStatus.COMPLETED})
        dataset_id = session.scalar(select(Dataset.id).where(Dataset.name == name))
        asked = session.execute(
            naming.records(Record.row, requests=open_ones, dataset_id=dataset_id)
        )
        return cls(
            excluded={row for row, _ in rows},
            erased={row for row, stands in rows if not stands},
            asked={row for _, row in asked},
        )


def _requests(session: Session, digester: Digester) -> list[dict[str, Any]]:
    rows = session.execute(
        select(DeletionRequest, Dataset.name)
        .outerjoin(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(DeletionRequest.status != RequestStatus.NO_MATCH)
        .order_by(DeletionRequest.id)
    ).all()
    on_hold = _holds(session)
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


def _requests_apart(
    listed: Iterable[Listed], ours: Mapping[str, RequestStatus]
) -> tuple[tuple[Listed, ...], tuple[Listed, ...], tuple[Listed, ...]]:
    lost, reopened, behind = [], [], []
    for one in listed:
        status = ours.get(one.id)
        if status is None:
            # A request that had ended and is unknown now needs nothing.
            if one.status not in WITHDRAWN:
                lost.append(one)
        elif one.status in WITHDRAWN:
            if status not in WITHDRAWN:
                reopened.append(one)
        elif _STAGE[status] < _STAGE[one.status]:
            behind.append(one)
    return tuple(lost), tuple(reopened), tuple(behind)


def _holds(session: Session) -> dict[str, HoldReason]:
    """Return the codes of the legal holds in force, by request."""
    in_force = select(LegalHold.request_id, LegalHold.reason_code).where(
        LegalHold.released_at.is_(None)
    )
    return {request_id: HoldReason(code) for request_id, code in session.execute(in_force)}


def _holds_apart(
    listed: Iterable[Listed],
    ours: Mapping[str, RequestStatus],
    on_hold: Mapping[str, HoldReason],
) -> tuple[tuple[Listed, ...], tuple[Listed, ...]]:
    says = [one for one in listed if "legal_hold" in one.model_fields_set]
    # A request that is unknown here comes back, unless it ended without forgetting anything.
    unheld = tuple(
        one
        for one in says
        if one.legal_hold is not None
        and one.id not in on_hold
        and ours.get(one.id, one.status) not in REQUEST_ENDS
    )
    return unheld, tuple(one for one in says if one.legal_hold is None and one.id in on_hold)


#: Progress of a request; only one that is behind the list's must be repaired.
_STAGE = {
    RequestStatus.AWAITING_APPROVAL: 0,
    RequestStatus.ACCEPTED: 1,
    RequestStatus.PROCESSING: 2,
    RequestStatus.NEEDS_REVIEW: 2,
    RequestStatus.COMPLETED: 2,  # a worker brings it from processing to here
    RequestStatus.NO_MATCH: 3,
    RequestStatus.CANCELLED: 3,
    RequestStatus.DENIED: 3,
}


def _unknown(session: Session, requests: Iterable[Listed]) -> tuple[str, ...]:
    named = {name for one in requests for name in one.named()}
    known = session.scalars(select(Dataset.name).where(Dataset.name.in_(named)))
    return tuple(sorted(named.difference(known)))


def _ready(session: Session) -> list[str]:
    wanted = select(Dataset.name).where(Dataset.status == DatasetStatus.READY)
    return list(session.scalars(wanted.order_by(Dataset.name)))


def _live(session: Session, finished: Mapping[str, set[int]]) -> tuple[tuple[str, int, int], ...]:
    found = []
    rows = session.execute(
        select(Model, Version, Dataset.name)
        .join(Version, Version.id == Model.production_id)
        .join(Dataset, Dataset.id == Model.dataset_id)
        .order_by(Model.name)
    )
    for model, version, name in rows.all():
        inside = session.scalars(
            select(Record.row).where(
                Record.dataset_id == model.dataset_id, lineage.contained(session, version)
            )
        )
        count = len(finished.get(name, set()).intersection(inside))
        if count:
            found.append((model.name, version.number, count))
    return tuple(found)


def _keys_back(session: Session, revoked: Collection[str]) -> tuple[str, ...]:
    wanted = select(ApiKey.id).where(ApiKey.id.in_(revoked), ApiKey.revoked_at.is_(None))
    return tuple(session.scalars(wanted.order_by(ApiKey.id)))


def _chain(session: Session, head: _Head) -> Literal["whole", "shorter", "another"]:
    if chain.holds(session, seq=head.seq, hash=head.hash):
        return "whole"
    end = session.scalar(select(AuditHead.seq).where(AuditHead.id == 1)) or 0
    return "shorter" if end < head.seq else "another"
