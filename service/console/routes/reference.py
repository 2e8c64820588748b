"""The API's reference: what `/openapi.json` says, for people. It needs no key and no other site."""

from __future__ import annotations

from fastapi import Request, Response

from service.console import pages
from service.console.views import reference

router = pages.router()


@router.get("/docs")
def show(request: Request) -> Response:
    """Show every operation with its scope, what it takes, an example call and an example answer."""
    state = request.app.state
    if not hasattr(state, "reference"):  # the document is the same as long as the process lives
        state.reference = reference.shown(request.app.openapi())
    return pages.render("reference.html", None, **state.reference)
