"""The commands ``unlearn webhooks``: add, list, change and remove webhooks; replay and test."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.settings import Settings
from workers.cli import ledger, output
from workers.cli.errors import stop as _stop
from workers.cli.output import AsJson

app = typer.Typer(no_args_is_help=True, help="Webhooks: who is told what happens.")

err = Console(stderr=True, highlight=False)

ACTOR = "cli"

WebhookId = Annotated[str, typer.Argument(help="Id of the webhook, wh_…")]


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="An https URL that leads to a public address.")],
    type: Annotated[
        list[str] | None, typer.Option(help="Type of event; may be repeated; default: all.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="Your own words for it.")] = None,
    ed25519: Annotated[
        bool, typer.Option("--ed25519", help="Sign asymmetrically; the receiver keeps no secret.")
    ] = False,
) -> None:
    """Add a webhook and show its secret (with --ed25519: its public key) on standard output.

    Example: unlearn webhooks add https://hooks.example.org/in --type unlearn.version.promoted
    """
    from service.ledger.database import db
    from service.ledger.webhooks import endpoints
    from service.ledger.webhooks.destinations import Rules
    from service.ledger.webhooks.sealing import Sealer
    from service.ledger.webhooks.signatures import Scheme

    settings = Settings()
    with ledger.session() as session:
        row, secret = endpoints.create(
            session,
            endpoints.New(url, description, type, Scheme.ED25519 if ed25519 else Scheme.HMAC),
            rules=Rules.from_settings(settings),
            sealer=Sealer.from_settings(settings),
            actor=ACTOR,
            now=db.now(),
        )
        session.commit()
    _show_secret(row.id, secret, row.public_key)


@app.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """Show the webhooks, how far each is behind and whether it fails."""
    from service.ledger.webhooks import endpoints

    with ledger.session() as session:
        rows = endpoints.listing(session, after=None, limit=endpoints.MAX_WEBHOOKS)
        last = endpoints.head(session)
    if as_json:
        output.as_json([_plain(row) | {"behind": last - row.seq} for row in rows])
        return
    table = Table("id", "url", "status", "lines behind", "failures", "last delivery")
    for row in rows:
        table.add_row(
            row.id,
            row.url,
            row.status.value,
            str(last - row.seq),
            str(row.failures),
            str(row.delivered_at)[:19] if row.delivered_at else "",
        )
    output.table(table)


@app.command()
def deliveries(
    webhook: WebhookId,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the latest attempts to deliver to a webhook, newest first.

    Example: unlearn webhooks deliveries wh_01k0c9m2vq8f4t6x3z5b7n1r9d --failed
    """
    from service.ledger.webhooks import endpoints

    with ledger.session() as session:
        endpoints.get(session, webhook)
        rows = endpoints.deliveries(
            session, webhook, before=None, limit=limit, failed=True if failed else None
        )
    if as_json:
        output.as_json([_plain(row) for row in rows])
        return
    table = Table("at", "line", "type", "answer", "error")
    for row in rows:
        answered = "" if row.answered is None else str(row.answered)
        table.add_row(str(row.at)[:19], str(row.seq), row.type, answered, row.error or "")
    output.table(table)


@app.command()
def enable(webhook: WebhookId) -> None:
    """Have a disabled webhook be told of everything since it was disabled."""
    from service.ledger.webhooks import endpoints

    with ledger.session() as session:
        endpoints.enable(session, webhook, actor=ACTOR)
        session.commit()
    err.print(f"{webhook} is active.")


@app.command()
def disable(webhook: WebhookId) -> None:
    """Send a webhook nothing until it is enabled; it keeps its place in the audit chain."""
    from service.ledger.database import db
    from service.ledger.webhooks import endpoints

    with ledger.session() as session:
        endpoints.disable(
            session, webhook, because="disabled by an operator", actor=ACTOR, now=db.now()
        )
        session.commit()
    err.print(f"{webhook} is disabled.")


@app.command("rotate-secret")
def rotate_secret(
    webhook: WebhookId,
    hours: Annotated[
        float, typer.Option(min=0, max=168, help="How long the old secret signs as well.")
    ] = 24.0,
) -> None:
    """Replace the secret and show the new one on standard output.

    Example: unlearn webhooks rotate-secret wh_01k0c9m2vq8f4t6x3z5b7n1r9d --hours 1
    """
    from service.ledger.database import db
    from service.ledger.webhooks import endpoints
    from service.ledger.webhooks.sealing import Sealer

    with ledger.session() as session:
        row, secret = endpoints.rotate(
            session,
            webhook,
            overlap=timedelta(hours=hours),
            sealer=Sealer.from_settings(Settings()),
            actor=ACTOR,
            now=db.now(),
        )
        session.commit()
    _show_secret(row.id, secret, row.public_key)


@app.command()
def replay(
    webhook: WebhookId,
    after: Annotated[
        int | None, typer.Option(min=0, help="Continue after this line of the audit chain.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Continue with what happened from this moment (UTC).")
    ] = None,
) -> None:
    """Have events be told again, or skipped: continue at another place of the audit chain.

    Example: unlearn webhooks replay wh_01k0c9m2vq8f4t6x3z5b7n1r9d --since 2026-05-25
    """
    from datetime import UTC

    from service.ledger.database import db
    from service.ledger.webhooks import endpoints

    if (after is None) == (since is None):
        raise _stop("give either --after or --since")
    moment = None if since is None else since.replace(tzinfo=since.tzinfo or UTC)
    with ledger.session() as session:
        row = endpoints.replay(
            session, webhook, after=after, since=moment, actor=ACTOR, now=db.now()
        )
        session.commit()
    err.print(f"{webhook} continues after line {row.seq}.")


@app.command("test")
def send_test(webhook: WebhookId) -> None:
    """Have a webhook be told of this test; `unlearn webhooks deliveries` shows the result."""
    from service.ledger.webhooks import endpoints

    with ledger.session() as session:
        endpoints.test(session, webhook, actor=ACTOR)
        session.commit()
    err.print(f"A worker tells {webhook} of it.")


@app.command()
def remove(
    webhook: WebhookId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove a webhook with its secret and the list of its deliveries."""
    from service.ledger.webhooks import endpoints

    with ledger.session() as session:
        endpoints.get(session, webhook)
        if not yes:
            session.commit()  # hold no locks while the question waits for an answer
            typer.confirm(f"Remove {webhook}?", abort=True, err=True)
        endpoints.remove(session, webhook, actor=ACTOR)
        session.commit()
    err.print(f"{webhook} is removed.")


def _show_secret(webhook: str, secret: str | None, public_key: str | None) -> None:
    if secret is None:
        err.print(f"{webhook}: its signatures are checked with this public key.")
        print(public_key)
        return
    err.print(f"{webhook}: keep its secret now, it is not shown again.")
    print(secret)


def _plain(row: Any) -> dict[str, Any]:
    """Return a row's columns without its secrets, with moments as text."""
    return {
        column.name: value.isoformat() if isinstance(value, datetime) else value
        for column in row.__table__.columns
        if "secret" not in column.name
        for value in [getattr(row, column.key)]
    }
