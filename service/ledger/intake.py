"""How deletion requests are recorded: many at once, with a handful of statements in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, ServiceError, TooManyRequests, Unprocessable
from service.ledger import audit, canonical, capabilities, idempotency, ids, matching, outlook
from service.ledger.digests import Digester
from service.ledger.matching import Ask, Match
from service.ledger.policy import Policy
from service.ledger.states import DatasetStatus, ErasureStatus, RequestStatus
from service.ledger.tables import (
    Dataset,
    DeletionRequest,
    Erasure,
    IdempotencyKey,
    Model,
    RequestRecord,
)

QUEUE_RETRY_SECONDS = 30


class DatasetNotReady(Conflict):
    """Its records are not known yet, or never will be."""

    code = "dataset-not-ready"


class ModelNotPublished(Conflict):
    """A model of the dataset has no version in production that could forget."""

    code = "model-not-published"


class CannotForgetClasses(Unprocessable):
    """The policy's method forgets records only."""

    code = "method-cannot-forget-classes"


class QueueFull(TooManyRequests):
    """Too many requests are open already."""

    code = "queue-full"


@dataclass(frozen=True)
class Submission:
    """An ask with the key that sends it and, where there is one, its idempotency claim."""

    ask: Ask
    principal: str
    claim: idempotency.Claim | None = None


@dataclass(frozen=True)
class Receipt:
    """What the sender is told; ``repeated`` when it was told before."""

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
    """Record requests; for each, in order, a receipt or the refusal.

    A refused one changes nothing and does not hold up the others. A recorded one gets an erasure
    for every model of its dataset, unless it waits for approval. ``room`` is how many more open
    requests the queue takes. Two transactions that record the same idempotency key at the same
    moment collide on its primary key: the loser rolls back and comes again.
    """
    claims = [one.claim for one in submissions if one.claim is not None]
    answered = idempotency.answers(session, claims)
    circles = _circles(session, submissions, now=now)
    matches = _matches(session, submissions, circles, digester)
    page = _Page(session, digester, now, room)
    outcomes: list[Receipt | ServiceError] = []
    for submission, match in zip(submissions, matches, strict=True):
        try:
            outcomes.append(page.take(submission, circles, match, answered))
        except ServiceError as refusal:
            outcomes.append(refusal)
    page.write()
    return outcomes


def describe(request: DeletionRequest, dataset: str) -> dict[str, Any]:
    """A request in its public form; what identified the person is not in it."""
    return {
        "id": request.id,
        "dataset": dataset,
        "kind": request.kind,
        "status": request.status.value,
        "status_reason": _reason(request),
        "label": request.label,
        "reason": request.reason,
        "client_reference": request.client_reference,
        "matched": request.matched,
        "already_forgotten": request.already_forgotten,
        "not_found": request.not_found,
        "complete_match": complete_match(request),
        "created_at": canonical.moment(request.created_at),
        "due_at": canonical.moment(request.due_at),
        "expected_by": canonical.moment(request.expected_by),
        "completed_at": _moment(request.completed_at),
    }


def complete_match(request: DeletionRequest) -> bool:
    """Whether everything that was asked for was found: False is a reason to look again."""
    return request.not_found == 0 and request.matched + request.already_forgotten > 0


def erasure_rows(
    request_id: str, models: Iterable[Model], *, now: datetime
) -> list[dict[str, Any]]:
    """The request's share of the work on each model, to be inserted."""
    return [
        {
            "request_id": request_id,
            "model_id": model.id,
            "status": ErasureStatus.PENDING,
            "attempts": 0,
            "created_at": now,
        }
        for model in models
    ]


def models_to_update(session: Session, dataset: Dataset) -> list[Model]:
    """The models of a dataset that must forget; ``ModelNotPublished`` names one that cannot yet."""
    models = session.scalars(
        select(Model).where(Model.dataset_id == dataset.id).order_by(Model.id)
    ).all()
    for model in models:
        if model.production_id is None and model.error is None:
            raise ModelNotPublished(
                f"model {model.name} of this dataset has no published version yet; train it "
                f"(POST /v1/models/{model.name}/training-runs), import a version, or wait for "
                "the training that runs, then ask again"
            )
    # A model that could not be prepared never saw a record.
    return [model for model in models if model.production_id is not None]


def check_methods(session: Session, models: Iterable[Model]) -> None:
    """Refuse to forget a class with ``CannotForgetClasses`` where a policy's method cannot."""
    for model in models:
        method = Policy.model_validate(model.policy).method
        if "class" not in capabilities.forgets(session, method):
            raise CannotForgetClasses(
                f"model {model.name} unlearns with {method}, which forgets records and not whole "
                "classes; change its policy to a method that can (GET /v1/methods), or ask with "
                "record_ids",
                field="label",
            )


@dataclass
class _Circle:
    """A dataset with everything that a request of it touches."""

    dataset: Dataset
    models: list[Model]
    seconds: float
    allowance: outlook.Allowance


def _circles(
    session: Session, submissions: Sequence[Submission], *, now: datetime
) -> dict[str, _Circle | ServiceError]:
    found: dict[str, _Circle | ServiceError] = {}
    for name in dict.fromkeys(one.ask.dataset for one in submissions):
        try:
            found[name] = _circle(session, name, now=now)
        except ServiceError as refusal:
            found[name] = refusal
    return found


def _circle(session: Session, name: str, *, now: datetime) -> _Circle:
    dataset = session.scalar(select(Dataset).where(Dataset.name == name))
    if dataset is None:
        raise NotFound("there is no dataset of this name; GET /v1/datasets lists them")
    if dataset.status == DatasetStatus.INGESTING:
        raise DatasetNotReady(
            f"dataset {name} is still being ingested; ask again when it is ready",
            retry_after_seconds=5,
        )
    if dataset.status == DatasetStatus.FAILED:
        raise DatasetNotReady(f"dataset {name} could not be ingested and holds no records")
    models = models_to_update(session, dataset)
    return _Circle(
        dataset,
        models,
        outlook.seconds_needed(session, models),
        outlook.allowance(session, dataset, models, now=now),
    )


def _matches(
    session: Session,
    submissions: Sequence[Submission],
    circles: Mapping[str, _Circle | ServiceError],
    digester: Digester,
) -> list[Match | None]:
    found: list[Match | None] = [None] * len(submissions)
    for name, circle in circles.items():
        if isinstance(circle, ServiceError):
            continue
        places = [place for place, one in enumerate(submissions) if one.ask.dataset == name]
        asks = [submissions[place].ask for place in places]
        matches = matching.match(session, circle.dataset, asks, digester=digester)
        for place, match in zip(places, matches, strict=True):
            found[place] = match
    return found


@dataclass
class _Page:
    """Rows gathered from many submissions and written together."""

    session: Session
    digester: Digester
    now: datetime
    room: int | None
    requests: list[DeletionRequest] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    erasures: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[tuple[str, str], IdempotencyKey] = field(default_factory=dict)
    lines: dict[str, list[audit.Line]] = field(default_factory=dict)

    def take(
        self,
        submission: Submission,
        circles: Mapping[str, _Circle | ServiceError],
        match: Match | None,
        answered: Mapping[tuple[str, str], IdempotencyKey],
    ) -> Receipt:
        """One more submission; raises its refusal."""
        claim = submission.claim
        if claim is not None:
            name = (claim.principal, claim.key)
            earlier = answered.get(name) or self.answers.get(name)
            if earlier is not None:
                return Receipt(idempotency.replay(earlier, claim), repeated=True)
        circle = circles[submission.ask.dataset]
        if isinstance(circle, ServiceError):
            raise circle
        matching.require_ids(circle.dataset, submission.ask)
        assert match is not None
        if submission.ask.kind == "class":
            check_methods(self.session, circle.models)
        if self.room is not None and len(self.requests) >= self.room:
            raise QueueFull(
                "too many deletion requests are open; wait for some to complete",
                retry_after_seconds=QUEUE_RETRY_SECONDS,
            )
        answer = describe(self._add(submission, circle, match), circle.dataset.name)
        if claim is not None:
            self.answers[claim.principal, claim.key] = idempotency.remember(
                claim, answer, now=self.now
            )
        return Receipt(answer)

    def write(self) -> None:
        """Insert everything gathered; the audit lines follow at the commit."""
        self.session.add_all([*self.requests, *self.answers.values()])
        self.session.flush()
        if self.records:
            self.session.execute(insert(RequestRecord), self.records)
        if self.erasures:
            self.session.execute(insert(Erasure), self.erasures)
        for actor, lines in self.lines.items():
            audit.append_many(self.session, actor=actor, lines=lines)

    def _add(self, submission: Submission, circle: _Circle, match: Match) -> DeletionRequest:
        request = self._row(submission, circle, match)
        self.requests.append(request)
        self.records.extend(
            {"request_id": request.id, "dataset_id": request.dataset_id, "row": row}
            for row in match.rows
        )
        if request.status == RequestStatus.ACCEPTED:
            self.erasures.extend(erasure_rows(request.id, circle.models, now=self.now))
        self.lines.setdefault(f"key:{submission.principal}", []).extend(_lines(request, circle))
        return request

    def _row(self, submission: Submission, circle: _Circle, match: Match) -> DeletionRequest:
        ask = submission.ask
        status = _first_status(match, circle.allowance)
        due_at = outlook.due(self.now)
        expected = min(self.now + timedelta(seconds=circle.seconds), due_at)
        ended = status in (RequestStatus.NO_MATCH, RequestStatus.COMPLETED)
        return DeletionRequest(
            id=ids.new("dr"),
            dataset_id=circle.dataset.id,
            kind=ask.kind,
            status=status,
            subject_digest=(
                None
                if ask.subject_id is None
                else matching.subject_digest(circle.dataset, ask.subject_id, digester=self.digester)
            ),
            label=ask.label,
            reason=ask.reason,
            client_reference=ask.client_reference,
            principal=submission.principal,
            matched=len(match.rows),
            already_forgotten=match.already_forgotten,
            not_found=match.not_found,
            status_reason=_REASONS.get(status),
            created_at=self.now,
            due_at=due_at,
            expected_by=self.now if ended else expected,
            completed_at=self.now if ended else None,
        )


def _reason(request: DeletionRequest) -> str | None:
    """Why a request is in its state; what was not found stays said until its end and after."""
    found = request.matched + request.already_forgotten
    if found == 0 or request.not_found == 0:
        return request.status_reason
    named, missing = found + request.not_found, request.not_found
    partly = f"{missing} of {named} record ids name{'s' * (missing == 1)} nothing in this dataset"
    return partly if request.status_reason is None else f"{partly}; {request.status_reason}"


_REASONS = {
    RequestStatus.NO_MATCH: "the dataset holds none of the records",
    RequestStatus.COMPLETED: "every record found was forgotten before",
    RequestStatus.AWAITING_APPROVAL: "larger than the policy lets through without approval",
}

_ACTIONS = {
    RequestStatus.ACCEPTED: audit.Action.DELETION_REQUEST_ACCEPTED,
    RequestStatus.AWAITING_APPROVAL: audit.Action.DELETION_REQUEST_AWAITING_APPROVAL,
    RequestStatus.NO_MATCH: audit.Action.DELETION_REQUEST_NO_MATCH,
    RequestStatus.COMPLETED: audit.Action.DELETION_REQUEST_COMPLETED,
}


def _first_status(match: Match, allowance: outlook.Allowance) -> RequestStatus:
    if match.nothing:
        return RequestStatus.NO_MATCH
    if not match.rows:
        return RequestStatus.COMPLETED
    if not allowance.covers(len(match.rows)):
        return RequestStatus.AWAITING_APPROVAL
    return RequestStatus.ACCEPTED


def _lines(request: DeletionRequest, circle: _Circle) -> list[audit.Line]:
    data = {
        "dataset": circle.dataset.name,
        "kind": request.kind,
        "matched": request.matched,
        "already_forgotten": request.already_forgotten,
        "not_found": request.not_found,
        "models": [model.name for model in circle.models],
        "due_at": canonical.moment(request.due_at),
    }
    return [audit.Line(_ACTIONS[request.status], f"deletion_request:{request.id}", data)]


def _moment(value: datetime | None) -> str | None:
    return None if value is None else canonical.moment(value)
