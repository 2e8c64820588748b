"""The commands ``unlearn keys``: API keys and their scopes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from service.ledger.database.tables import ApiKey
from workers.cli import ledger, output
from workers.cli.errors import err
from workers.cli.output import AsJson

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")

_COLUMNS = {
    "id": "id",
    "name": "name",
    "scopes": "scopes",
    "created": "created_at",
    "expires": "expires_at",
    "revoked": "revoked_at",
}


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: admin.")
    ] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key and show its secret, once, on standard output.

    Example: unlearn keys create crm --scope requests:write --scope requests:read --days 90
    """
    from service.ledger.database import db
    from service.ledger.registry import keys

    with ledger.session() as session:
        row, secret = keys.create(
            session,
            name,
            scopes=scope or ["admin"],
            expires_at=None if days is None else db.now() + timedelta(days=days),
            actor="cli",
            now=db.now(),
        )
        session.commit()
        made = _plain(row)
    err.print("Keep it now: only its hash is stored.")
    if as_json:
        output.as_json({**made, "secret": secret})
    else:
        print(secret)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Show the API keys, without their secrets."""
    from service.ledger.registry import keys

    with ledger.session() as session:
        found = [_plain(row) for row in keys.listing(session)]
    if not as_json:
        found = [{**one, "scopes": " ".join(one["scopes"])} for one in found]
    output.rows(found, _COLUMNS, json=as_json)


@app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="Id of the key, key_…")]) -> None:
    """Revoke an API key; it works for a second longer at most."""
    from service.ledger.database import db
    from service.ledger.registry import keys

    with ledger.session() as session:
        keys.revoke(session, key_id, actor="cli", now=db.now())
        session.commit()
    err.print(f"{key_id} is revoked.")


def _plain(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "scopes": list(row.scopes),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }
