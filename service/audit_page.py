"""A saved page of a document: the signed bytes in it, and whether its words are those of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from html.parser import HTMLParser

#: How a page of ours begins.
_BEGINNING = b"<!doctype html>"
#: Id of the link that contains the signed bytes, and how its address begins.
_ID, _DATA = "signed", "data:application/json;base64,"

#: Kinds of documents of which there are pages.
KINDS = frozenset({"audit-report", "deletion-receipt"})


def is_page(content: bytes) -> bool:
    """Return whether this is a page, and not a document itself."""
    return content.lstrip()[: len(_BEGINNING)].lower() == _BEGINNING


def signed_bytes(content: bytes) -> bytes:
    """Return the signed bytes in a page; raise ``ValueError`` if it does not contain them once."""
    found = _Links()
    try:
        found.feed(content.decode("utf-8"))
        found.close()
    except AssertionError:  # of the parser, for a marked section that it does not know
        raise ValueError("this page is not HTML that can be read") from None
    if len(found.addresses) != 1:
        raise ValueError("this page does not contain one signed document")
    address = found.addresses[0]
    if not address.startswith(_DATA):
        raise ValueError("the signed document of this page is not in the page itself")
    try:
        return base64.b64decode(address.removeprefix(_DATA), validate=True)
    except binascii.Error:
        raise ValueError("the signed document of this page is not base64") from None


def made_again(kind: str, content: bytes) -> str | None:
    """Return the page that this program makes of signed bytes of one of ``KINDS``.

    None if it is installed without the part that makes pages; empty if none can be made of them.
    """
    try:
        from service.console import documents
    except ImportError:  # templates need the extra `api`
        return None
    makers: dict[str, Callable[[bytes], documents.Page]] = {
        "audit-report": documents.report,
        "deletion-receipt": documents.receipt,
    }
    try:
        return makers[kind](content).html
    except Exception:  # a signed document of somebody else may lack what a page shows
        return ""


class _Links(HTMLParser):
    """Collects the addresses of links with our id."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link, if it is one of ours."""
        found = dict(attrs)
        if found.get("id") == _ID:
            self.addresses.append((found.get("href") or "") if tag == "a" else "")
