"""What the pages of all documents have: one file, their style, and the signed bytes in them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from service.api.negotiation import Page
from service.console import pages

#: The console's style, and what paper needs beside it.
_STYLE = "".join(pages.ASSETS[name].body.decode() for name in ("console.css", "paper.css"))

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

#: A page loads nothing; the browser takes no other style than this one.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

#: What of the policy a page can say of itself, when it is opened from a file.
_OWN_POLICY = POLICY.replace("; frame-ancestors 'none'", "")


def render(template: str, content: bytes, document: Mapping[str, Any], **shown: Any) -> Page:
    """Return the page of a document whose canonical bytes are ``content``."""
    html = pages.text(
        template,
        document=document,
        style=Markup(_STYLE),  # noqa: S704  # our own file
        policy=_OWN_POLICY,
        signature=document["signature"],
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        data=base64.b64encode(content).decode(),
        **shown,
    )
    return Page(html, POLICY)
