"""The rows of many deletion requests, gathered and then written together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service import logs
from service.errors import ServiceError, TooManyRequests
from service.ledger.audit import canonical, chain, changes
from service.ledger.database import ids, inserts
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    DeletionRequest,
    Erasure,
    IdempotencyKey,
    RequestDataset,
    RequestRecord,
    Suppression,
)
from service.ledger.obligations import shares
from service.ledger.requests import idempotency, outlook, suppressions
from service.ledger.requests.descriptions import describe
from service.ledger.requests.parts import (
    Part,
    check_methods,
    expected_by,
    first_status,
    models_of,
)
from service.ledger.selection import listing, matching
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask

QUEUE_RETRY_SECONDS = 30

#: Most rows that a transaction lists, unless a single request has more; such a request has a
#: transaction of its own, with as many rows per statement.
ROWS_AT_ONCE = 10_000

_REASONS = {
    RequestStatus.NO_MATCH: "the dataset holds none of the records",
    RequestStatus.COMPLETED: "every record found was forgotten before",
    RequestStatus.AWAITING_APPROVAL: "larger than the policy lets through without approval",
}

_ACTIONS = {
    RequestStatus.ACCEPTED: chain.Action.DELETION_REQUEST_ACCEPTED,
    RequestStatus.AWAITING_APPROVAL: chain.Action.DELETION_REQUEST_AWAITING_APPROVAL,
    RequestStatus.NO_MATCH: chain.Action.DELETION_REQUEST_NO_MATCH,
    RequestStatus.COMPLETED: chain.Action.DELETION_REQUEST_COMPLETED,
}


class QueueFull(TooManyRequests):
    """Too many requests are open."""

    code = "queue-full"


@dataclass(frozen=True)
class Submission:
    """A request to record, with the principal and, if there is one, its idempotency claim.

    The id is chosen before the transaction: a sender that does not learn the outcome can look it up
    by the id, and sending it again under the id cannot record it twice.
    """

    ask: Ask
    principal: str
    claim: idempotency.Claim | None = None
    id: str = field(default_factory=lambda: ids.new("dr"))
    #: The HTTP request that brings it.
    origin: logs.Origin = field(default_factory=logs.Origin.here)


@dataclass(frozen=True)
class Receipt:
    """The answer to the sender; ``repeated`` if it was given before."""

    answer: Mapping[str, Any]
    repeated: bool = False


@dataclass
class Page:
    """Rows gathered from many submissions, to be written together."""

    session: Session
    digester: Digester
    now: datetime
    room: int | None
    lists: listing.Lists
    requests: list[DeletionRequest] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    #: By the id of the request that lists them.
    records: dict[str, listing.Named] = field(default_factory=dict)
    listed: int = 0
    erasures: list[dict[str, Any]] = field(default_factory=list)
    suppressed: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[tuple[str, str], IdempotencyKey] = field(default_factory=dict)
    lines: dict[str, list[chain.Line]] = field(default_factory=dict)

    def is_full(self, named: listing.Named) -> bool:
        """Return whether a request with these records must wait for the next transaction."""
        if not self.listed or self.lists.under(named) is not None:
            return False
        return self.listed + named.count > ROWS_AT_ONCE

    def take(
        self,
        submission: Submission,
        parts: list[Part] | ServiceError,
        named: listing.Named,
        answered: Mapping[tuple[str, str], IdempotencyKey],
    ) -> Receipt:
        """Add one more submission; raise its refusal."""
        claim = submission.claim
        if claim is not None:
            name = (claim.principal, claim.key)
            earlier = answered.get(name) or self.answers.get(name)
            if earlier is not None:
                return Receipt(idempotency.replay(earlier, claim), repeated=True)
        if isinstance(parts, ServiceError):
            raise parts
        if submission.ask.kind == "class":
            check_methods(self.session, models_of(parts))
        if self.room is not None and len(self.requests) >= self.room:
            raise QueueFull(
                "too many deletion requests are open; wait for some to complete",
                retry_after_seconds=QUEUE_RETRY_SECONDS,
            )
        answer = describe(self._add(submission, parts, named), submission.ask.dataset)
        if claim is not None:
            self.answers[claim.principal, claim.key] = idempotency.remember(
                claim, answer, now=self.now
            )
        return Receipt(answer)

    def write(self) -> None:
        """Insert everything gathered; the audit lines follow at the commit."""
        # Sorted, so that two transactions with the same keys cannot deadlock.
        answers = [self.answers[name] for name in sorted(self.answers)]
        records = _in_pieces(self.records)
        inserts.write(
            self.session,
            {
                DeletionRequest: [inserts.values(one) for one in self.requests],
                IdempotencyKey: [inserts.values(one) for one in answers],
                RequestDataset: self.datasets,
                RequestRecord: next(records, []),
                Suppression: self.suppressed,
                Erasure: self.erasures,
            },
        )
        for rest in records:
            inserts.write(self.session, {RequestRecord: rest})
        for actor, lines in self.lines.items():
            chain.append_many(self.session, actor=actor, lines=lines)

    def _add(
        self, submission: Submission, parts: list[Part], named: listing.Named
    ) -> DeletionRequest:
        request = self._row(submission, parts)
        self.requests.append(request)
        self._list(request, named)
        if request.dataset_id is None:
            self.datasets.extend(_share(request, part) for part in parts)
        if request.status == RequestStatus.ACCEPTED:
            self.erasures.extend(shares.rows(request.id, models_of(parts), now=self.now))
        subject = submission.ask.subject_id
        if subject is not None and request.status in suppressions.SUPPRESSING:
            self.suppressed += suppressions.of_subject(
                request.id, subject, digester=self.digester, now=self.now
            )
        line = _line(request, submission.ask, parts)
        changes.came_from(self.session, line.subject, submission.origin)
        self.lines.setdefault(f"key:{submission.principal}", []).append(line)
        return request

    def _list(self, request: DeletionRequest, named: listing.Named) -> None:
        if not named.rows:
            return
        request.listed_by = self.lists.under(named)
        if request.listed_by is None:
            request.listed_by, request.rows_digest = request.id, named.digest
            self.records[request.id] = named
            self.listed += named.count
            self.lists.add(request.id, named)

    def _row(self, submission: Submission, parts: list[Part]) -> DeletionRequest:
        ask = submission.ask
        status = first_status(parts)
        if status == RequestStatus.ACCEPTED:
            for part in parts:
                part.affected.allowance.take(len(part.match.rows))
        due_at = outlook.due(ask.asked_at or self.now, ask.period)
        ended = status in (RequestStatus.NO_MATCH, RequestStatus.COMPLETED)
        return DeletionRequest(
            id=submission.id,
            dataset_id=None if ask.dataset is None else parts[0].affected.dataset.id,
            kind=ask.kind,
            status=status,
            subject_digest=self._subject(ask, parts),
            label=ask.label,
            reason=ask.reason,
            client_reference=ask.client_reference,
            principal=submission.principal,
            matched=sum(len(part.match.rows) for part in parts),
            already_forgotten=sum(part.match.already_forgotten for part in parts),
            not_found=sum(part.match.not_found for part in parts),
            status_reason=_REASONS.get(status),
            created_at=self.now,
            asked_at=ask.asked_at,
            due_at=due_at,
            regulation=ask.period.regulation.value,
            expected_by=self.now if ended else expected_by(parts, now=self.now, due_at=due_at),
            completed_at=self.now if ended else None,
            traceparent=submission.origin.traceparent,
        )

    def _subject(self, ask: Ask, parts: list[Part]) -> str | None:
        if ask.subject_id is None:
            return None
        dataset = None if ask.dataset is None else parts[0].affected.dataset
        return matching.subject_digest(dataset, ask.subject_id, digester=self.digester)


def _in_pieces(lists: Mapping[str, listing.Named]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of ``RequestRecord``, at most ``ROWS_AT_ONCE`` at a time."""
    rows = itertools.chain.from_iterable(
        ({"request_id": request_id, "dataset_id": dataset_id, "row": row} for row in its)
        for request_id, named in lists.items()
        for dataset_id, its in named.rows
    )
    while piece := list(itertools.islice(rows, ROWS_AT_ONCE)):
        yield piece


def _share(request: DeletionRequest, part: Part) -> dict[str, Any]:
    return {
        "request_id": request.id,
        "dataset_id": part.affected.dataset.id,
        "matched": len(part.match.rows),
        "already_forgotten": part.match.already_forgotten,
    }


def _line(request: DeletionRequest, ask: Ask, parts: Sequence[Part]) -> chain.Line:
    where: dict[str, Any] = {"dataset": ask.dataset}
    if ask.dataset is None:
        where["datasets"] = [part.affected.dataset.name for part in parts]
    data = {
        **where,
        "kind": request.kind,
        "matched": request.matched,
        "already_forgotten": request.already_forgotten,
        "not_found": request.not_found,
        "models": [model.name for model in models_of(parts)],
        "due_at": canonical.moment(request.due_at),
    }
    return chain.Line(_ACTIONS[request.status], f"deletion_request:{request.id}", data)
