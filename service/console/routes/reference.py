"""The API's reference: what `/openapi.json` says, for people. It needs no key and no other site."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Request, Response

from service.console import pages
from service.console.views import reference
from service.errors import NotFound

router = pages.router()


Noun = Annotated[str, Path(pattern=r"^[a-z-]{1,40}$")]


@router.get("/docs")
def show(request: Request) -> Response:
    """List every operation."""
    return pages.render("reference.html", None, **_reference(request))


@router.get("/docs/{noun}")
def show_noun(request: Request, noun: Noun) -> Response:
    """Show a noun's operations with scope, what each takes, an example call and answer."""
    shown = _reference(request)
    group = next((one for one in shown["groups"] if one.anchor == noun), None)
    if group is None:
        raise NotFound("the API has no operations of this name; /docs lists them")
    return pages.render("reference_noun.html", None, group=group, **shown)


def _reference(request: Request) -> dict[str, Any]:
    state = request.app.state
    if not hasattr(state, "reference"):  # the document is the same as long as the process lives
        state.reference = reference.shown(request.app.openapi())
    found: dict[str, Any] = state.reference
    return found
