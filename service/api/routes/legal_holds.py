"""Legal holds over HTTP: which are in force. They are placed and released at their request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from service.api import auth, bodies, deps, pagination
from service.api.routes.deletion_requests_schemas import ListedHold
from service.ledger.requests import legal_holds

router = bodies.router("/v1/legal-holds", tag="deletion requests")

Reader = Annotated[auth.Principal, auth.require("requests:read")]


@router.get("", response_model=pagination.Page[ListedHold], summary="List the legal holds")
def listing(
    session: deps.Reader,
    _principal: Reader,
    paging: pagination.Asked,
    in_force: Annotated[
        bool, Query(description="only those in force; false: also those that were released")
    ] = True,
) -> Response:
    """Return a page of the legal holds, oldest first."""
    rows = legal_holds.listing(
        session, in_force=in_force, after=paging.after(str), limit=paging.fetch
    )
    return bodies.answer(paging.page(rows, key=lambda row: row["id"]))
