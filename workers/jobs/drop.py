"""Lists of California's DROP: read whole, then a deletion request for each hash.

A list is a CSV file with the columns ``ID`` (the work item, 12 letters and digits) and ``Hash``
(SHA-256 of a standardised identifier, base64). Source: CalPrivacy, DROP technical specifications,
version 1.2.0, "Working with the data". The service keeps keyed digests of subject ids, so a hash
matches only if the subjects were ingested under such hashes.
"""

from __future__ import annotations

import base64
import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from service.errors import ServiceError
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest
from service.ledger.requests import idempotency, intake, lookup, page
from service.ledger.selection import matching
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask
from service.ledger.selection.regulations import Period, Regulation

#: Requests recorded, or hashes looked up, in one transaction.
AT_ONCE = 200

#: Who asks, in the audit chain and for idempotency keys.
PRINCIPAL = "cli"

_HEADER = ["ID", "Hash"]
_ITEM = re.compile(r"[A-Za-z0-9]{12}")
_HASH = re.compile(r"[A-Za-z0-9+/]{43}=")
_NAME = re.compile(r"[0-9]{8}_[0-9]{4}_([A-Za-z]+)(_[A-Za-z0-9]{1,10})?\.csv")


class List(StrEnum):
    """The lists of DROP, by what is hashed."""

    EMAIL = "email"
    PHONE = "phone"
    MAID = "maid"  # mobile advertising id
    CTVID = "ctvid"  # connected TV id
    NDZ = "ndz"  # name, date of birth, ZIP
    NAMEVIN = "namevin"  # name, vehicle identification number


class Form(StrEnum):
    """How the subjects' hashes were written when they were ingested."""

    BASE64 = "base64"  # as in the lists
    HEX = "hex"  # 64 digits in lower case


class Outcome(StrEnum):
    """The status codes of DROP that follow from a deletion request."""

    DELETED = "3"
    NOT_FOUND = "5"


class NotAList(ValueError):
    """The file is not such a list; the message says where, and quotes none of its content."""


class Stopped(Exception):
    """The import cannot go on now; what was recorded stays."""


@dataclass(frozen=True)
class Item:
    """One row of a list."""

    id: str
    subject_id: str = field(repr=False)

    @property
    def reference(self) -> str:
        """Return the name that its deletion request bears."""
        return f"drop:{self.id}"


def read(path: Path, which: List, form: Form) -> list[Item]:
    """Return the rows of a list, each once; raise ``NotAList`` before anything is done.

    A hash may stand under several work items, such as that of a number that two people gave.
    """
    named = _NAME.fullmatch(path.name)
    if named is not None and named[1].lower() != which:
        raise NotAList(
            f"the name of this file says that it is the list {named[1]}, not {which}; "
            "identifiers that were removed have to be looked up by hand"
            if named[1].lower() == "removed"
            else f"the name of this file says that it is the list {named[1]}, not {which}; "
            "give the one that it is with --list"
        )
    found: dict[Item, None] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.reader(stream, strict=True), start=1):
                if number == 1:
                    _check_header(row)
                elif row:
                    found[_item(row, number, form)] = None
                else:
                    raise NotAList(f"line {number} is empty; download the list again")
    except (UnicodeDecodeError, csv.Error):
        raise NotAList("this is not a CSV file in UTF-8; download the list again") from None
    if not found and path.stat().st_size == 0:
        raise NotAList("the file is empty, even its header is missing; download the list again")
    return list(found)


def each_hash_once(items: Sequence[Item]) -> list[Item]:
    """Return the first work item of each hash: they share its request."""
    found: dict[str, Item] = {}
    for one in items:
        found.setdefault(one.subject_id, one)
    return list(found.values())


@dataclass
class Progress:
    """What an import has done so far."""

    recorded: Counter[RequestStatus] = field(default_factory=Counter)
    #: Rows that an earlier import has recorded.
    repeated: int = 0

    @property
    def matched(self) -> int:
        """Return how many new requests met a subject."""
        return sum(self.recorded.values()) - self.recorded[RequestStatus.NO_MATCH]


def import_items(
    sessions: sessionmaker[Session],
    items: Sequence[Item],
    which: List,
    *,
    digester: Digester,
    max_queue: int,
    now: Callable[[], datetime],
    told: Callable[[int], None] = lambda _: None,
) -> Progress:
    """Record a deletion request for each item that has none; ``told`` is given each advance.

    ``items`` are those of ``each_hash_once``.
    Each transaction is complete in itself, so that an import that was cut off goes on where it
    stopped when it is begun again. Raise ``Stopped`` when a request is refused.
    """
    progress = Progress()
    for some in _pieces(items):
        with sessions() as session:
            known = _known(session, some)
        new = [one for one in some if one.reference not in known]
        progress.repeated += len(some) - len(new)
        submissions = [_submission(one, which, digester) for one in new]
        while submissions:
            with sessions.begin() as session:
                taken = _record(session, submissions, progress, digester, max_queue, now())
            submissions = submissions[taken:]
        told(len(some))
    return progress


def count(
    sessions: sessionmaker[Session],
    items: Sequence[Item],
    *,
    digester: Digester,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Return how many items match a subject, and how many have a request; record nothing."""
    matched = requested = 0
    for some in _pieces(items):
        with sessions() as session:
            requested += len(_known(session, some))
            asks = [Ask(None, "subject", subject_id=one.subject_id) for one in some]
            found = matching.everywhere(session, asks, digester=digester)
        matched += sum(map(bool, found))
        told(len(some))
    return matched, requested


def outcomes(
    sessions: sessionmaker[Session], items: Sequence[Item], which: List, *, digester: Digester
) -> tuple[dict[str, Outcome], Counter[str]]:
    """Return the status code of each work item whose request is done, and how many are not.

    The latter by the state of their request; ``not imported`` if they have none. A work item whose
    hash was imported under another one is answered by that one's request.
    """
    own: dict[str, RequestStatus] = {}
    by_hash: dict[str, RequestStatus] = {}
    for some in _pieces(items):
        with sessions() as session:
            known = _known(session, some)
            others = [one for one in some if one.reference not in known]
            by_hash |= _answered(session, others, which, digester)
        own |= known
        by_hash |= {one.subject_id: known[one.reference] for one in some if one.reference in known}
    done: dict[str, Outcome] = {}
    left: Counter[str] = Counter()
    for item in items:
        status = own.get(item.reference) or by_hash.get(item.subject_id)
        if status is RequestStatus.COMPLETED:
            done[item.id] = Outcome.DELETED
        elif status is RequestStatus.NO_MATCH:
            done[item.id] = Outcome.NOT_FOUND
        else:
            left["not imported" if status is None else status.value] += 1
    return done, left


def _check_header(row: Sequence[str]) -> None:
    if row != _HEADER:
        raise NotAList(
            "the first line must be ID,Hash, as DROP's lists have it (those of removed identifiers "
            "have a third column); download the list again"
        )


def _item(row: Sequence[str], number: int, form: Form) -> Item:
    if len(row) != 2 or not _ITEM.fullmatch(row[0]) or not _HASH.fullmatch(row[1]):
        raise NotAList(
            f"line {number} is not a work item of 12 letters and digits and a SHA-256 hash in "
            "base64; nothing was recorded, download the list again"
        )
    digest = base64.b64decode(row[1])
    # The last letter may hold bits that mean nothing; only one spelling is canonical.
    return Item(row[0], digest.hex() if form == Form.HEX else base64.b64encode(digest).decode())


def _claim(item: Item, which: List, digester: Digester) -> idempotency.Claim:
    bodies = digester.bodies(PRINCIPAL, f"drop:{which}:{item.subject_id}")
    return idempotency.Claim(PRINCIPAL, f"drop:{which}:{bodies[0]}", bodies)


def _submission(item: Item, which: List, digester: Digester) -> page.Submission:
    ask = Ask(
        dataset=None,
        kind="subject",
        subject_id=item.subject_id,
        reason=f"DROP list {which}",
        client_reference=item.reference,
        period=Period(Regulation.CCPA),  # 45 days, as for DROP (Civil Code 1798.99.86)
    )
    return page.Submission(ask, PRINCIPAL, _claim(item, which, digester))


def _record(
    session: Session,
    submissions: Sequence[page.Submission],
    progress: Progress,
    digester: Digester,
    max_queue: int,
    now: datetime,
) -> int:
    """Record as many as fit in a transaction; return how many those are."""
    room = max_queue - lookup.count_open(session, up_to=max_queue)
    answers = intake.record_many(session, submissions, digester=digester, now=now, room=room)
    for one in answers:
        if isinstance(one, ServiceError):
            raise Stopped(one.detail)
    for one in answers:
        assert isinstance(one, page.Receipt)
        if one.repeated:
            progress.repeated += 1
        else:
            progress.recorded[RequestStatus(one.answer["status"])] += 1
    return len(answers)


def _known(session: Session, items: Sequence[Item]) -> dict[str, RequestStatus]:
    """Return the states of the items' requests, by reference."""
    found = session.execute(
        select(DeletionRequest.client_reference, DeletionRequest.status).where(
            DeletionRequest.client_reference.in_([one.reference for one in items]),
            DeletionRequest.principal == PRINCIPAL,
        )
    )
    return {reference: status for reference, status in found if reference is not None}


def _answered(
    session: Session, items: Sequence[Item], which: List, digester: Digester
) -> dict[str, RequestStatus]:
    """Return the states of requests by hash, of hashes that have one under another work item."""
    claims = [_claim(one, which, digester) for one in items]
    rows = idempotency.answers(session, claims)
    found: dict[str, str] = {
        one.subject_id: rows[claim.principal, claim.key].answer["id"]
        for one, claim in zip(items, claims, strict=True)
        if (claim.principal, claim.key) in rows
    }
    requests = session.scalars(
        select(DeletionRequest).where(DeletionRequest.id.in_(list(found.values())))
    )
    states = {request.id: request.status for request in requests}
    return {one: states[request] for one, request in found.items() if request in states}


def _pieces(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), AT_ONCE):
        yield items[first : first + AT_ONCE]
