"""What the pages about deletion requests show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.api import pagination
from service.console import words
from service.console.sessions import Visitor
from service.ledger.audit import chain
from service.ledger.database.states import REQUEST_ENDS, RequestStatus
from service.ledger.database.tables import DeletionRequest
from service.ledger.registry import datasets, models
from service.ledger.requests import deadlines, holders, lookup, worklist
from service.ledger.requests.deadlines import ExtensionReason
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.lifecycle import DenialReason

#: Open requests that are counted for the tabs; beyond that the page says "more".
COUNTED = 10_000
#: Names that a field suggests.
SUGGESTED = 200
#: Lines of the chain on the page of one request.
LINES = 100

#: Tabs above the list: the value of the parameter ``state``, and its words.
TABS = (
    ("open", "Open"),
    ("awaiting_approval", "Waiting for approval"),
    ("accepted", "Accepted"),
    ("processing", "In progress"),
    ("needs_review", "Needs review"),
    ("completed", "Completed"),
    ("held", "Under a legal hold"),
    ("all", "All"),
)
#: Further states of requests that have ended.
ENDED = ("no_match", "cancelled", "denied")

#: Days of the filter by due date; 0: overdue.
DAYS = (0, 2, 7, 14, 30)

#: States of requests that are not over.
OPEN = frozenset(RequestStatus) - REQUEST_ENDS

#: Action on a request: the states in which it is possible, and the scope that it needs.
ACTIONS: Mapping[str, tuple[frozenset[RequestStatus], str]] = {
    "approve": (frozenset({RequestStatus.AWAITING_APPROVAL}), "requests:approve"),
    "deny": (frozenset({RequestStatus.AWAITING_APPROVAL}), "requests:approve"),
    "retry": (frozenset({RequestStatus.NEEDS_REVIEW}), "requests:write"),
    "cancel": (
        frozenset({RequestStatus.AWAITING_APPROVAL, RequestStatus.ACCEPTED}),
        "requests:write",
    ),
    "extend": (OPEN, "requests:approve"),
    "hold": (OPEN, "requests:approve"),
    # A request that was denied or cancelled meanwhile may be under a hold, too.
    "release": (frozenset(RequestStatus), "requests:approve"),
}
#: Actions that a legal hold forbids.
FORBIDDEN = frozenset({"approve", "retry", "hold"})

#: Why data are kept although their deletion was asked for: the code, and its words.
HOLD_REASONS = (
    (HoldReason.LEGAL_CLAIMS, "legal claims (GDPR 17(3)(e))"),
    (HoldReason.LEGAL_OBLIGATION, "a legal obligation (GDPR 17(3)(b))"),
    (HoldReason.AUTHORITY_ORDER, "an order of a court or an authority"),
)
#: Why a request is denied.
DENIAL_REASONS = (
    (DenialReason.OTHER, "another reason"),
    (DenialReason.IDENTITY_NOT_VERIFIED, "the identity was not verified (GDPR 12(6))"),
    (DenialReason.MANIFESTLY_UNFOUNDED, "it is manifestly unfounded (GDPR 12(5))"),
    (DenialReason.EXCESSIVE, "it is excessive (GDPR 12(5))"),
    (DenialReason.FREEDOM_OF_EXPRESSION, "freedom of expression (GDPR 17(3)(a))"),
    (DenialReason.LEGAL_OBLIGATION, "a legal obligation (GDPR 17(3)(b))"),
    (DenialReason.PUBLIC_HEALTH, "public health (GDPR 17(3)(c))"),
    (DenialReason.ARCHIVING_OR_RESEARCH, "archiving or research (GDPR 17(3)(d))"),
    (DenialReason.LEGAL_CLAIMS, "legal claims (GDPR 17(3)(e))"),
    (DenialReason.DUPLICATE, "it is a duplicate"),
)
#: Why a request takes longer.
EXTENSION_REASONS = (
    (ExtensionReason.COMPLEXITY, "it is complex"),
    (ExtensionReason.NUMBER_OF_REQUESTS, "there are many requests"),
)

#: What an audit line says of a request, in words.
EVENTS: Mapping[str, str] = {
    chain.Action.DELETION_REQUEST_ACCEPTED: "Accepted",
    chain.Action.DELETION_REQUEST_AWAITING_APPROVAL: "Recorded; waits for approval",
    chain.Action.DELETION_REQUEST_APPROVED: "Approved",
    chain.Action.DELETION_REQUEST_DENIED: "Denied",
    chain.Action.DELETION_REQUEST_NO_MATCH: "Recorded; nothing matched",
    chain.Action.DELETION_REQUEST_CLAIMED: "Claimed by a batch",
    chain.Action.DELETION_REQUEST_EXCLUDED: "Left out of all training",
    chain.Action.DELETION_REQUEST_COMPLETED: "Completed",
    chain.Action.DELETION_REQUEST_CANCELLED: "Cancelled",
    chain.Action.DELETION_REQUEST_NEEDS_REVIEW: "Put aside for review",
    chain.Action.DELETION_REQUEST_RETRIED: "Tried again",
    chain.Action.DELETION_REQUEST_HOLDER_WITHDRAWN: "A holder of its rows was withdrawn",
    chain.Action.DELETION_REQUEST_REOPENED: "Opened again by the reconciler",
    chain.Action.DELETION_REQUEST_LEGAL_HOLD_PLACED: "Legal hold placed",
    chain.Action.DELETION_REQUEST_LEGAL_HOLD_RELEASED: "Legal hold released",
    chain.Action.DELETION_REQUEST_EXTENDED: "Due date extended",
    chain.Action.DELETION_REQUEST_DUE_SOON: "Warned: due soon",
    chain.Action.DELETION_REQUEST_OVERDUE: "Warned: overdue",
    chain.Action.BATCH_CLAIMED: "Claimed by a batch",
}


@dataclass(frozen=True)
class Asked:
    """The list as it was asked for."""

    state: str = "open"
    dataset: str = ""
    model: str = ""
    due: str = ""
    reference: str = ""

    def wanted(self, now: datetime) -> worklist.Wanted:
        """Return the ledger's conditions; what is not a value of a field is left out."""
        status = RequestStatus(self.state) if self.state in list(RequestStatus) else None
        days = int(self.due) if self.due in [str(one) for one in DAYS] else None
        return worklist.Wanted(
            status=status,
            only_open=self.state not in ("all", "held"),
            held=self.state == "held",
            dataset=self.dataset or None,
            model=self.model or None,
            due_before=None if days is None else now + timedelta(days=days),
            reference=self.reference or None,
        )

    @property
    def parameters(self) -> dict[str, str]:
        """Return the list's parameters, for links."""
        state = "" if self.state == "open" else self.state
        return {
            "state": state,
            "dataset": self.dataset,
            "model": self.model,
            "due": self.due,
            "reference": self.reference,
        }


def listing(
    session: Session, visitor: Visitor, asked: Asked, paging: pagination.Paging, *, now: datetime
) -> dict[str, Any]:
    """Return a page of the list, with how many requests are open."""
    wanted = asked.wanted(now)
    rows = worklist.page(session, wanted, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: worklist.place(wanted, row))
    counts = worklist.count_open(session, up_to=COUNTED)
    total = sum(counts.values())
    bulk = [name for name in ("approve", "deny", "retry") if visitor.may(ACTIONS[name][1])]
    return {
        "asked": asked,
        "rows": page["items"],
        "next": page["next_cursor"],
        "by_due_date": wanted.by_due_date,
        "tabs": [
            (state, said, total if state == "open" else counts.get(_status(state)))
            for state, said in TABS
        ],
        "more": total >= COUNTED,
        "matching": [name for name in bulk if _status(asked.state) in ACTIONS[name][0]],
        "bulk": bulk if _is_decided(asked.state) else [],
        **suggestions(session, visitor),
    }


def suggestions(session: Session, visitor: Visitor) -> dict[str, Any]:
    """Return names of datasets and models for fields, if the key may list them."""
    if not visitor.may("models:read"):
        return {"datasets": [], "models": []}
    return {
        "datasets": [one.name for one in datasets.page(session, after=None, limit=SUGGESTED)],
        "models": [one.name for one in models.page(session, after=None, limit=SUGGESTED)],
    }


def one(session: Session, visitor: Visitor, request_id: str, *, now: datetime) -> dict[str, Any]:
    """Return a request, what each model did, who still holds the rows, and its timeline."""
    row = lookup.get(session, request_id)
    lines = lookup.events(session, request_id, after=None, limit=LINES)
    described = lookup.detail(session, row)
    held = holders.of(session, row)
    return {
        "request": described,
        "subject": subject(described),
        "holders": held,
        "holding": [(share, held.models.get(share["model"])) for share in described["erasures"]],
        "timeline": [_event(line) for line in lines],
        "actions": actions(visitor, row, now=now),
        "denial_reasons": DENIAL_REASONS,
        "hold_reasons": HOLD_REASONS,
        "extension_reasons": EXTENSION_REASONS,
        "periods_left": deadlines.periods_left(row),
    }


def actions(visitor: Visitor, row: DeletionRequest, *, now: datetime) -> list[str]:
    """Return what the visitor may do with a request now."""
    held = row.legal_hold_id is not None
    impossible = set(FORBIDDEN) if held else {"release"}
    if now >= row.due_at or not deadlines.periods_left(row):
        impossible.add("extend")
    return [
        name
        for name, (states, scope) in ACTIONS.items()
        if row.status in states and visitor.may(scope) and name not in impossible
    ]


def subject(described: Mapping[str, Any]) -> str:
    """Return in words what a request is about, without naming anybody."""
    dataset = described["dataset"]
    where = "every dataset" if dataset is None else dataset
    if described["kind"] == "class":
        return f"Class {described['label']} of {where}"
    if described["kind"] == "subject":
        return f"One subject in {where}"
    found = described["matched"] + described["already_forgotten"] + described["not_found"]
    return f"{words.many(found, 'record')} of {where}"


def _event(line: Any) -> dict[str, Any]:
    said = EVENTS.get(line.action, words.plain(line.action.replace(":", " ")))
    return {"at": line.at, "actor": line.actor, "seq": line.seq, "said": said}


def _status(state: str) -> Any:
    return RequestStatus(state) if state in list(RequestStatus) else None


def _is_decided(state: str) -> bool:
    return state in ("open", "all", "awaiting_approval", "needs_review")


def outcomes(results: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Return the results of an action on several requests: id, and why it was refused."""
    refused = [(request_id, why) for request_id, why in results if why is not None]
    return {"done": len(results) - len(refused), "refused": refused}
