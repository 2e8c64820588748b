"""The console's own style sheet, script and icon."""

from __future__ import annotations

from fastapi import Response

from service.console import pages
from service.errors import NotFound

router = pages.router()


@router.get("/static/{name}")
async def file(name: str) -> Response:
    """Return a static file; its address changes with its contents, so browsers may keep it."""
    found = pages.ASSETS.get(name)
    if found is None:
        raise NotFound("there is no such file")
    keep = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(found.body, headers=keep, media_type=found.media_type)
