"""API keys: a list, and revocation. Keys are made on the command line, which shows them once."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from service.api import deps
from service.console import pages, sessions
from service.ledger.database import db
from service.ledger.registry import keys

PATH = "/keys"

router = pages.router()

Administering = Annotated[sessions.Visitor, sessions.looking("admin")]
Revoking = Annotated[sessions.Act, sessions.acting("admin")]
KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-z]{26}$")]
Done = Annotated[str, Query(max_length=20)]


@router.get(PATH)
def listing(visitor: Administering, session: deps.Reader, done: Done = "") -> Response:
    """List every key."""
    found = [(row, keys.is_valid(row, now=db.now())) for row in keys.listing(session)]
    return pages.render("keys.html", visitor, path=PATH, keys=found, done=done)


@router.post("/keys/{key_id}/revoke")
def revoke(act: Revoking, session: deps.Session, key_id: KeyId) -> Response:
    """Revoke a key; its sessions end with it."""
    keys.revoke(session, key_id, actor=act.visitor.actor, now=db.now())
    session.commit()
    return pages.go(PATH, done="revoke")
