"""The commands ``unlearn requests``: follow deletion requests and decide about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.ledger.database.states import RequestStatus
from service.ledger.requests.deadlines import ExtensionReason
from service.ledger.requests.legal_holds import HoldReason
from service.ledger.requests.lifecycle import DenialReason
from workers.cli import bulk, ledger, output
from workers.cli.errors import err
from workers.cli.output import AsJson

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from service.ledger.database.tables import DeletionRequest

app = typer.Typer(
    no_args_is_help=True,
    help="Follow deletion requests, decide about them, and place legal holds. They are placed over "
    "HTTP or in the console, under the name of a key.",
)

ACTOR = "cli"
MOST = 1_000

RequestId = Annotated[str, typer.Argument(help="Id of the request, dr_…")]
OneRequest = Annotated[
    str | None, typer.Argument(help="Id of the request, dr_…; none with --all.", show_default=False)
]
Limit = Annotated[int, typer.Option(min=1, max=MOST, help="How many.")]
Reason = Annotated[str, typer.Option(help="Why, in your own words; stored with the request.")]

_COLUMNS = {
    "id": "id",
    "status": "status",
    "due": "due_at",
    "kind": "kind",
    "dataset": "dataset",
    "matched": "matched",
    "legal hold": "legal_hold",
    "reference": "client_reference",
}
_HOLDS = {
    "request": "request",
    "hold": "id",
    "code": "reason_code",
    "placed by": "placed_by",
    "placed": "placed_at",
    "released": "released_at",
    "request is": "request_status",
    "due": "due_at",
}


@app.command("list")
def list_requests(
    status: Annotated[RequestStatus | None, typer.Option(help="Only in this state.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only about this dataset.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those that this model does.")] = None,
    due_before: Annotated[
        datetime | None, typer.Option(help="Only those that are due before this moment (UTC).")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Continue after this id.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List deletion requests, oldest first.

    Example: unlearn requests list --status awaiting_approval
    """
    from service.ledger.requests import lookup

    due = None if due_before is None else due_before.replace(tzinfo=due_before.tzinfo or UTC)
    chosen = lookup.Filter(status, dataset, model, due)
    with ledger.session() as session:
        found = lookup.listing(session, chosen, after=after, limit=limit)
    output.rows(found, _COLUMNS, json=as_json)


@app.command("show")
def show_request(request: RequestId, as_json: AsJson = False) -> None:
    """Show a request with its state on each model, and until when its undo window lasts.

    Example: unlearn requests show dr_01k0c9m2vq8f4t6x3z5b7n1r9d
    """
    from service.ledger.requests import lookup

    with ledger.session() as session:
        found = lookup.detail(session, lookup.get(session, request))
    output.one(found, json=as_json)


@app.command("events")
def show_events(request: RequestId, limit: Limit = MOST, as_json: AsJson = False) -> None:
    """Show what happened to a request: its lines of the audit chain, oldest first."""
    from service.ledger.audit import chain
    from service.ledger.requests import lookup

    with ledger.session() as session:
        lookup.get(session, request)
        lines = lookup.events(session, request, after=None, limit=limit)
        found = [chain.describe(line) for line in lines]
    columns = {"line": "seq", "at": "at", "who": "actor", "what": "action", "data": "data"}
    output.rows(found, columns, json=as_json)


@app.command("cancel")
def cancel_request(request: RequestId) -> None:
    """Cancel a request, which is possible until a worker begins with it."""
    from service.ledger.requests import lifecycle

    _decide(request, lambda session: lifecycle.cancel(session, request, actor=ACTOR))


@app.command("retry")
def retry_request(
    request: OneRequest = None,
    everything: bulk.All = False,
    dataset: bulk.Dataset = None,
    model: bulk.Model = None,
    due_before: bulk.DueBefore = None,
    older_than_days: bulk.OlderThanDays = None,
    reference: bulk.Reference = None,
    expect: bulk.Expect = None,
) -> None:
    """Try a request that needs review again, apart from other requests; or all that do.

    Example: unlearn requests retry --all --dataset faces
    """
    from service.ledger.requests import lifecycle

    chosen = bulk.Chosen(dataset, model, due_before, older_than_days, reference)
    bulk.require_one_or_all(request, everything, chosen)
    if request is None:
        bulk.decide("retry", chosen, expect=expect)
        return
    _decide(request, lambda session: lifecycle.retry(session, request, actor=ACTOR))


@app.command("approve")
def approve_request(
    request: OneRequest = None,
    everything: bulk.All = False,
    dataset: bulk.Dataset = None,
    model: bulk.Model = None,
    due_before: bulk.DueBefore = None,
    older_than_days: bulk.OlderThanDays = None,
    reference: bulk.Reference = None,
    expect: bulk.Expect = None,
) -> None:
    """Approve a request that the policy's approval limits hold back; or all that wait for it.

    Example: unlearn requests approve --all --older-than-days 2
    """
    from service.ledger.database import db
    from service.ledger.requests import lifecycle

    chosen = bulk.Chosen(dataset, model, due_before, older_than_days, reference)
    bulk.require_one_or_all(request, everything, chosen)
    if request is None:
        bulk.decide("approve", chosen, expect=expect)
        return
    _decide(request, lambda session: lifecycle.approve(session, request, actor=ACTOR, now=db.now()))


@app.command("deny")
def deny_request(
    request: OneRequest = None,
    code: Annotated[DenialReason, typer.Option(help="By which reason.")] = DenialReason.OTHER,
    reason: Annotated[str | None, typer.Option(help="Why, in your own words.")] = None,
    everything: bulk.All = False,
    dataset: bulk.Dataset = None,
    model: bulk.Model = None,
    due_before: bulk.DueBefore = None,
    older_than_days: bulk.OlderThanDays = None,
    reference: bulk.Reference = None,
    expect: bulk.Expect = None,
) -> None:
    """Deny a request that the policy's approval limits hold back, or all; they end here.

    Example: unlearn requests deny dr_01k0c9m2vq8f4t6x3z5b7n1r9d --code duplicate
    """
    from service.ledger.requests import lifecycle

    chosen = bulk.Chosen(dataset, model, due_before, older_than_days, reference)
    bulk.require_one_or_all(request, everything, chosen)
    if request is None:
        bulk.decide("deny", chosen, expect=expect, reason=reason, code=code)
        return
    _decide(
        request,
        lambda session: lifecycle.deny(session, request, because=reason, code=code, actor=ACTOR),
    )


@app.command("extend")
def extend_request(
    request: RequestId,
    code: Annotated[ExtensionReason, typer.Option(help="Why it takes longer.")],
    reason: Reason,
    periods: Annotated[
        int, typer.Option(min=1, max=2, help="Periods of its regulation: months, or 45 days.")
    ] = 1,
) -> None:
    """Extend the due date of a request, before it has passed; the person has to be told.

    Example: unlearn requests extend dr_01k0c9m2vq8f4t6x3z5b7n1r9d --code complexity --reason "…"
    """
    from service.ledger.database import db
    from service.ledger.requests import deadlines

    due = _decide(
        request,
        lambda session: deadlines.extend(
            session,
            request,
            periods=periods,
            because=code,
            reason=_said(reason),
            actor=ACTOR,
            now=db.now(),
        ),
    )["due_at"]
    err.print(f"It is due {due}; tell the person, with the reason, before the former due date.")


@app.command("hold")
def place_hold(
    request: RequestId,
    code: Annotated[HoldReason, typer.Option(help="Why the data must be kept.")],
    reason: Reason,
) -> None:
    """Place a legal hold: nothing that the request names is destroyed until it is released.

    Example: unlearn requests hold dr_01k0c9m2vq8f4t6x3z5b7n1r9d --code legal_claims --reason "…"
    """
    from service.ledger.database import db
    from service.ledger.requests import legal_holds

    _decide(
        request,
        lambda session: legal_holds.place(
            session, request, code=code, reason=_said(reason), actor=ACTOR, now=db.now()
        ),
    )


@app.command("release-hold")
def release_hold(request: RequestId, reason: Reason) -> None:
    """Release the legal hold on a request; it goes on, and its due date has not moved.

    Example: unlearn requests release-hold dr_01k0c9m2vq8f4t6x3z5b7n1r9d --reason "case closed"
    """
    from service.ledger.database import db
    from service.ledger.requests import legal_holds

    _decide(
        request,
        lambda session: legal_holds.release(
            session, request, reason=_said(reason), actor=ACTOR, now=db.now()
        ),
    )


@app.command("holds")
def list_holds(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were released.")
    ] = False,
    after: Annotated[str | None, typer.Option(help="Continue after the hold with this id.")] = None,
    limit: Limit = MOST,
    as_json: AsJson = False,
) -> None:
    """List the legal holds that are in force, oldest first."""
    from service.ledger.requests import legal_holds

    with ledger.session() as session:
        found = legal_holds.listing(session, in_force=not everything, after=after, limit=limit)
    output.rows(found, _HOLDS, json=as_json)


def _decide(request_id: str, change: Callable[[Session], DeletionRequest]) -> dict[str, Any]:
    """Make a change, say which state the request is in, and return its public form."""
    from service.ledger.requests import lookup

    with ledger.session() as session:
        found = lookup.detail(session, change(session))
        session.commit()
    held = ", under a legal hold" if found["legal_hold"] else ""
    err.print(f"{request_id} is {found['status']}{held}.")
    return found


def _said(reason: str) -> str:
    from workers.cli.errors import stop

    if not 1 <= len(reason.strip()) <= 2_000:
        raise stop("give a reason of at most 2,000 characters")
    return reason.strip()
