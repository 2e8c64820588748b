"""Decisions about every request that fits a filter, as ``unlearn requests … --all`` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from service.ledger.requests.lifecycle import DenialReason
from workers.cli import ledger
from workers.cli.errors import err, stop

ACTOR = "cli"

All = Annotated[
    bool, typer.Option("--all", help="Every request that fits the other options, instead of one.")
]
Dataset = Annotated[str | None, typer.Option(help="With --all: only those about this dataset.")]
Model = Annotated[str | None, typer.Option(help="With --all: only those that this model does.")]
DueBefore = Annotated[
    datetime | None, typer.Option(help="With --all: only those due before this moment (UTC).")
]
OlderThanDays = Annotated[
    float | None,
    typer.Option(
        min=0, max=36_500, help="With --all: only those received more than so many days ago."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="With --all: only those whose client reference begins with this."),
]
Expect = Annotated[
    int | None,
    typer.Option(min=0, help="With --all: do not ask, and do nothing unless so many fit."),
]


@dataclass(frozen=True)
class Chosen:
    """The options that choose requests."""

    dataset: str | None
    model: str | None
    due_before: datetime | None
    older_than_days: float | None
    reference: str | None

    @property
    def is_empty(self) -> bool:
        """Return whether none was given."""
        return self == Chosen(None, None, None, None, None)


def require_one_or_all(request: str | None, everything: bool, chosen: Chosen) -> None:
    """Raise the command line's error unless one request is named, or all that fit are meant."""
    if everything == (request is not None):
        raise stop("name one request, or give --all")
    if not everything and not chosen.is_empty:
        raise stop("options that choose requests need --all")


def decide(
    action: str,
    chosen: Chosen,
    *,
    expect: int | None,
    reason: str | None = None,
    code: DenialReason = DenialReason.OTHER,
) -> None:
    """Count the requests that fit, have the number confirmed, and decide about each of them.

    Exit with 1 if one of them was refused.
    """
    from service.ledger.database import db
    from service.ledger.requests import bulk

    now = db.now()
    due, days = chosen.due_before, chosen.older_than_days
    wanted = bulk.Filter(
        dataset=chosen.dataset,
        model=chosen.model,
        due_before=None if due is None else due.replace(tzinfo=due.tzinfo or UTC),
        received_before=None if days is None else now - timedelta(days=days),
        reference=chosen.reference,
    )
    kind = bulk.Action(action)
    with ledger.session() as session:
        counted = bulk.count(db.read_only(session), kind, wanted)
    matching = counted.number
    if expect is None:
        typer.confirm(f"{action.capitalize()} {matching} requests?", abort=True, err=True)
    elif expect != matching:
        raise stop(f"{matching} requests fit, not {expect}; nothing was changed")
    with ledger.session() as session:
        row = bulk.begin(
            session,
            kind,
            wanted,
            matching=matching,
            up_to=counted.up_to,
            reason=reason,
            code=code,
            actor=ACTOR,
            now=now,
        )
        decision_id = row.id
        session.commit()
    ended = _go_on(decision_id, matching)
    for one in ended["refusals"]:
        err.print(f"{one['request']} was left as it is: {one['detail']}")
    err.print(f"{ended['done']} of {matching} requests; {ended['refused']} left as they are.")
    if ended["refused"]:
        raise typer.Exit(1)


def _go_on(decision_id: str, matching: int) -> dict[str, Any]:
    from rich.progress import Progress

    from service.ledger.requests import bulk

    with Progress(console=err) as bar:
        task = bar.add_task("requests", total=matching)
        while True:
            row = bulk.go_on(ledger.sessions(), decision_id, actor=ACTOR)
            bar.update(task, completed=row.done + row.refused)
            if row.ended_at is not None:
                return bulk.describe(row)
