"""Differences between a tombstone list and a restored backup: its ledger, and its files.

``service.ledger.restore.replay`` repairs what is found here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.states import REQUEST_ENDS, DatasetStatus, RequestStatus
from service.ledger.database.tables import (
    ApiKey,
    AuditHead,
    Dataset,
    DeletionRequest,
    Exclusion,
    Model,
    Record,
    Version,
)
from service.ledger.registry import lineage
from service.ledger.requests import suppression_lists
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.suppression_lists import Entry as Suppressed
from service.ledger.restore import tombstones, withdrawal_lists
from service.ledger.restore.withdrawal_lists import Withdrawals
from service.ledger.selection import naming
from service.ledger.selection.digests import Digester

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


@dataclass(frozen=True)
class Found:
    """Differences between the list and ledger and files; rows by dataset name."""

    #: Requests of the list that the ledger does not know.
    lost: tuple[tombstones.Listed, ...] = ()
    #: Requests that ended in the list and are open again in the ledger.
    reopened: tuple[tombstones.Listed, ...] = ()
    #: Requests that the list has in a later state than the ledger.
    behind: tuple[tombstones.Listed, ...] = ()
    #: Requests of the list under a legal hold that the ledger lacks, and those whose hold in the
    #: ledger was released since.
    unheld: tuple[tombstones.Listed, ...] = ()
    released: tuple[tombstones.Listed, ...] = ()
    #: Open requests that have another due date here: they were extended after the backup.
    redated: tuple[tombstones.Listed, ...] = ()
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
                self.redated,
                any(self.in_training.values()),
                any(self.raw.values()),
                any(self.erased_in_file.values()),
                self.live,
                self.served_again,
                self.keys,
                self.suppressions,
            )
        )


def compare(
    session: Session, listed: tombstones.Tombstones, *, digester: Digester, overwritten: Overwritten
) -> Found:
    """Compare the list with the ledger and with the rows overwritten in the array files."""
    ours = dict(session.execute(select(DeletionRequest.id, DeletionRequest.status)).all())
    lost, reopened, behind = _requests_apart(listed.requests, ours)
    unheld, released = _holds_apart(listed.requests, ours, tombstones.legal_holds(session))
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
        redated=_redated(session, listed.requests),
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
    session: Session, requests: Iterable[tombstones.Listed], *, digester: Digester
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


def _requests_apart(
    listed: Iterable[tombstones.Listed], ours: Mapping[str, RequestStatus]
) -> tuple[
    tuple[tombstones.Listed, ...], tuple[tombstones.Listed, ...], tuple[tombstones.Listed, ...]
]:
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


def _holds_apart(
    listed: Iterable[tombstones.Listed],
    ours: Mapping[str, RequestStatus],
    on_hold: Mapping[str, HoldReason],
) -> tuple[tuple[tombstones.Listed, ...], tuple[tombstones.Listed, ...]]:
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


def _redated(
    session: Session, listed: Iterable[tombstones.Listed]
) -> tuple[tombstones.Listed, ...]:
    ours = dict(
        session.execute(
            select(DeletionRequest.id, DeletionRequest.due_at).where(DeletionRequest.is_open)
        ).all()
    )
    return tuple(
        one for one in listed if one.says_period and ours.get(one.id, one.due_at) != one.due_at
    )


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


def _unknown(session: Session, requests: Iterable[tombstones.Listed]) -> tuple[str, ...]:
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


def _chain(session: Session, head: tombstones.Head) -> Literal["whole", "shorter", "another"]:
    if chain.holds(session, seq=head.seq, hash=head.hash):
        return "whole"
    end = session.scalar(select(AuditHead.seq).where(AuditHead.id == 1)) or 0
    return "shorter" if end < head.seq else "another"
