"""Operations: queue, lanes, workers, leases, and what will be destroyed when."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from service.api import deps
from service.console import pages, sessions
from service.console.views import operations as views
from service.ledger.database import db

PATH = "/operations"

router = pages.router()

Watching = Annotated[sessions.Visitor, sessions.looking("metrics:read")]


@router.get(PATH)
def show(visitor: Watching, session: deps.Reader, settings: deps.Settings) -> Response:
    """Show what waits, what runs, and who holds what."""
    shown = views.page(session, visitor, settings, now=db.now())
    return pages.render("operations.html", visitor, path=PATH, **shown)
