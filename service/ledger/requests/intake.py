"""Record deletion requests: many at once, in a constant number of statements."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, ServiceError, TooManyRequests, Unprocessable
from service.ledger.audit import canonical, chain
from service.ledger.database import ids, inserts, locks
from service.ledger.database.states import DatasetStatus, RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    Erasure,
    IdempotencyKey,
    Model,
    RequestDataset,
    RequestRecord,
    Suppression,
)
from service.ledger.obligations import shares
from service.ledger.registry import capabilities, methods, standing
from service.ledger.registry.policy import Policy
from service.ledger.requests import idempotency, outlook, suppressions
from service.ledger.requests.descriptions import describe
from service.ledger.selection import listing, matching
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask, Match

QUEUE_RETRY_SECONDS = 30

#: Most rows that a transaction lists, unless a single request has more; such a request has a
#: transaction of its own, with as many rows per statement.
ROWS_AT_ONCE = 10_000


class DatasetNotReady(Conflict):
    """The dataset's records are not known yet, or never will be."""

    code = "dataset-not-ready"


class CannotForgetClasses(Unprocessable):
    """The policy's method cannot forget a class."""

    code = "method-cannot-forget-classes"


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


@dataclass(frozen=True)
class Receipt:
    """The answer to the sender; ``repeated`` if it was given before."""

    answer: Mapping[str, Any]
    repeated: bool = False


def record(
    session: Session,
    ask: Ask,
    *,
    principal: str,
    digester: Digester,
    now: datetime,
    claim: idempotency.Claim | None = None,
    room: int | None = None,
) -> Receipt:
    """Record one request; see ``record_many``."""
    submission = Submission(ask, principal, claim)
    outcome = record_many(session, [submission], digester=digester, now=now, room=room)[0]
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def record_many(
    session: Session,
    submissions: Sequence[Submission],
    *,
    digester: Digester,
    now: datetime,
    room: int | None = None,
) -> list[Receipt | ServiceError]:
    """Record as many of these requests as fit in a transaction; see ``gather``."""
    gathered = gather(session, submissions, digester=digester, now=now, room=room)
    gathered.write()
    return gathered.outcomes


def gather(
    session: Session,
    submissions: Sequence[Submission],
    *,
    digester: Digester,
    now: datetime,
    room: int | None = None,
    outlooks: outlook.Outlooks | None = None,
) -> Gathered:
    """Prepare as many of these requests, from the first on, as fit in a transaction (at least one).

    For each of those, in order, return a receipt or the refusal; the caller writes what was
    gathered, commits, and calls again with the rest. A transaction lists ``ROWS_AT_ONCE`` records;
    requests that match exactly the same records share their list.

    A refused request changes nothing and does not affect the others. A recorded one gets an erasure
    for every model of its datasets that may hold its records (``shares``), unless it waits for
    approval. ``room`` is how many more open requests the queue accepts. If two transactions record
    the same idempotency key at the same moment, they collide on its primary key; the loser rolls
    back and is repeated.
    """
    claims = [one.claim for one in submissions if one.claim is not None]
    answered = idempotency.answers(session, claims)
    if any(one.ask.kind == "subject" for one in submissions):
        suppressions.share(session)
    asks = [one.ask for one in submissions]
    parts = parts_of(session, asks, digester=digester, now=now, outlooks=outlooks)
    named = _named(asks, parts)
    page = _Page(session, digester, now, room, listing.Lists(session, named))
    outcomes: list[Receipt | ServiceError] = []
    for submission, its_parts, its_rows in zip(submissions, parts, named, strict=True):
        if page.is_full(its_rows):
            break
        try:
            outcomes.append(page.take(submission, its_parts, its_rows, answered))
        except ServiceError as refusal:
            outcomes.append(refusal)
    return Gathered(outcomes, page)


def recorded(session: Session, submissions: Iterable[Submission]) -> dict[str, Receipt]:
    """Return receipts of the submissions that are recorded, by id."""
    rows = session.execute(
        select(DeletionRequest, Dataset.name)
        .outerjoin(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .where(DeletionRequest.id.in_([one.id for one in submissions]))
    )
    return {request.id: Receipt(describe(request, name)) for request, name in rows}


def check_methods(session: Session, models: Iterable[Model]) -> None:
    """Raise ``CannotForgetClasses`` if a model's policy has a method that cannot forget a class."""
    for model in models:
        method = Policy.model_validate(model.policy).method
        # A removed method still has its announcement; the policy's next method replaces it.
        known = methods.get(session, method)
        if known is None:
            known = methods.of(capabilities.get(session, "method", method))
        if "class" not in known.forgets:
            raise CannotForgetClasses(
                f"model {model.name} unlearns with {method}, which forgets records and not whole "
                "classes; change its policy to a method that can (GET /v1/methods), or ask with "
                "record_ids",
                field="label",
            )


@dataclass(frozen=True)
class Gathered:
    """Rows to write for requests, and the answers to their senders once committed."""

    outcomes: list[Receipt | ServiceError]
    page: _Page

    def write(self) -> None:
        """Insert everything, without reading."""
        self.page.write()


@dataclass
class _Circle:
    """A dataset with everything that a request on it touches."""

    dataset: Dataset
    models: Sequence[Model]
    seconds: float
    allowance: outlook.Allowance


@dataclass(frozen=True)
class Part:
    """A request's match in one dataset."""

    circle: _Circle
    match: Match


def parts_of(
    session: Session,
    asks: Sequence[Ask],
    *,
    digester: Digester,
    now: datetime,
    outlooks: outlook.Outlooks | None = None,
) -> list[list[Part] | ServiceError]:
    """Return, for every ask, its match in each dataset, or its refusal.

    ``outlooks`` keeps estimates from one transaction to the next.

    An ask that names a dataset has one part; one about a subject everywhere has one for each
    dataset that holds its records.
    """
    wide = [place for place, ask in enumerate(asks) if ask.dataset is None]
    found = _everywhere(session, [asks[place] for place in wide], digester)
    met = dict(zip(wide, found, strict=True))
    names = [ask.dataset for ask in asks if ask.dataset is not None]
    names += [name for one in met.values() if not isinstance(one, ServiceError) for name in one]
    circles = _circles(session, names, now=now, outlooks=outlooks or outlook.Outlooks(0.0))
    for name, circle in circles.items():
        places = [place for place, ask in enumerate(asks) if ask.dataset == name]
        if isinstance(circle, _Circle) and places:
            its_asks = [asks[place] for place in places]
            matches = matching.match(session, circle.dataset, its_asks, digester=digester)
            met |= {place: {name: match} for place, match in zip(places, matches, strict=True)}
    return [_parts(ask, met.get(place, {}), circles) for place, ask in enumerate(asks)]


def _named(asks: Sequence[Ask], parts: Sequence[list[Part] | ServiceError]) -> list[listing.Named]:
    """Return the records that each ask would list; none for a class, which its label names."""
    made: dict[tuple[int, ...], listing.Named] = {}
    found: list[listing.Named] = []
    for ask, its in zip(asks, parts, strict=True):
        met = [] if isinstance(its, ServiceError) or ask.kind == "class" else its
        # Equal asks share one match, which is processed once.
        same = tuple(id(part.match) for part in met)
        if same not in made:
            made[same] = listing.Named.of({part.circle.dataset.id: part.match.rows for part in met})
        found.append(made[same])
    return found


def _everywhere(
    session: Session, asks: Sequence[Ask], digester: Digester
) -> Sequence[dict[str, Match] | ServiceError]:
    if not asks:
        return []
    read = session.scalars(select(Dataset.name).filter_by(status=DatasetStatus.INGESTING)).first()
    unknown = read and DatasetNotReady(
        f"no dataset that is ready holds the subject, and dataset {read}, which is still being "
        "ingested, may hold it; ask again when it is ready",
        retry_after_seconds=5,
    )
    try:
        found = matching.everywhere(session, asks, digester=digester)
    except ServiceError as refusal:
        return [unknown or refusal] * len(asks)
    # A subject that was found somewhere is suppressed in datasets being ingested; others are not.
    return [one or unknown or one for one in found]


def _parts(
    ask: Ask, met: dict[str, Match] | ServiceError, circles: Mapping[str, _Circle | ServiceError]
) -> list[Part] | ServiceError:
    if isinstance(met, ServiceError):
        return met
    parts: list[Part] = []
    for name in met if ask.dataset is None else [ask.dataset]:
        circle = circles[name]
        if isinstance(circle, ServiceError):
            return circle
        try:
            matching.require_ids(circle.dataset, ask)
        except ServiceError as refusal:
            return refusal
        parts.append(Part(circle, met[name]))
    return parts


def _circles(
    session: Session, names: Iterable[str], *, now: datetime, outlooks: outlook.Outlooks
) -> dict[str, _Circle | ServiceError]:
    names = dict.fromkeys(names)
    locked = locks.named_datasets(session, names, locks.Hold.INTAKE)
    models = {name: shares.concerned(session, dataset.id) for name, dataset in locked.items()}
    # If a policy limits requests per day, one transaction at a time counts and adds to them.
    limited = [one.id for some in models.values() for one in some if outlook.is_limited(one)]
    if limited:
        locks.models(session, limited)
    found: dict[str, _Circle | ServiceError] = {}
    for name in names:
        try:
            dataset = _ready(locked.get(name))
        except ServiceError as refusal:
            found[name] = refusal
        else:
            found[name] = _Circle(
                dataset,
                models[name],
                outlooks.seconds_needed(session, models[name]),
                outlook.allowance(session, dataset, models[name], now=now),
            )
    return found


def _ready(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise NotFound("there is no dataset of this name; GET /v1/datasets lists them")
    standing.require_dataset(dataset)
    if dataset.status == DatasetStatus.INGESTING:
        raise DatasetNotReady(
            f"dataset {dataset.name} is still being ingested; ask again when it is ready",
            retry_after_seconds=5,
        )
    if dataset.status == DatasetStatus.FAILED:
        raise DatasetNotReady(f"dataset {dataset.name} could not be ingested and holds no records")
    return dataset


@dataclass
class _Page:
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
                part.circle.allowance.take(len(part.match.rows))
        due_at = outlook.due(self.now)
        ended = status in (RequestStatus.NO_MATCH, RequestStatus.COMPLETED)
        return DeletionRequest(
            id=submission.id,
            dataset_id=None if ask.dataset is None else parts[0].circle.dataset.id,
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
            due_at=due_at,
            expected_by=self.now if ended else expected_by(parts, now=self.now),
            completed_at=self.now if ended else None,
        )

    def _subject(self, ask: Ask, parts: list[Part]) -> str | None:
        if ask.subject_id is None:
            return None
        dataset = None if ask.dataset is None else parts[0].circle.dataset
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


def models_of(parts: Iterable[Part]) -> list[Model]:
    """Return the models that must forget what the ask matched."""
    return [model for part in parts for model in part.circle.models]


def first_status(parts: Sequence[Part]) -> RequestStatus:
    """Return the first state of a request; if one dataset's limits require approval, all waits."""
    if all(part.match.nothing for part in parts):
        return RequestStatus.NO_MATCH
    if not any(part.match.rows for part in parts):
        return RequestStatus.COMPLETED
    if not all(part.circle.allowance.covers(len(part.match.rows)) for part in parts):
        return RequestStatus.AWAITING_APPROVAL
    return RequestStatus.ACCEPTED


def expected_by(parts: Sequence[Part], *, now: datetime) -> datetime:
    """Return the estimated moment at which the last model will have forgotten the records."""
    seconds = max((part.circle.seconds for part in parts), default=0.0)
    return min(now + timedelta(seconds=seconds), outlook.due(now))


def _share(request: DeletionRequest, part: Part) -> dict[str, Any]:
    return {
        "request_id": request.id,
        "dataset_id": part.circle.dataset.id,
        "matched": len(part.match.rows),
        "already_forgotten": part.match.already_forgotten,
    }


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


def _line(request: DeletionRequest, ask: Ask, parts: Sequence[Part]) -> chain.Line:
    where: dict[str, Any] = {"dataset": ask.dataset}
    if ask.dataset is None:
        where["datasets"] = [part.circle.dataset.name for part in parts]
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
