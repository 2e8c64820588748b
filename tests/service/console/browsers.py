"""A browser without a screen: keeps cookies, sends forms as pages have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from service.ledger.registry import keys

URL = "http://127.0.0.1:8000"


class Browser(TestClient):
    """A client at a loopback address that follows no redirect by itself."""

    def __init__(self, app: FastAPI, url: str = URL) -> None:
        super().__init__(app, base_url=url, follow_redirects=False)

    def token(self, path: str) -> str:
        """Return the token in the forms of a page."""
        return tokens(self.get(path).text)[0]

    def submit(self, path: str, fields: dict[str, Any] | None = None, *, page: str = "/") -> Any:
        """Send a form with the token of the page that has it."""
        here = self.get(page, follow_redirects=True).text
        return self.post(path, data={"token": tokens(here)[0], **(fields or {})})


def tokens(page: str) -> list[str]:
    """Return the tokens in the forms of a page."""
    return re.findall(r'name="token" value="([0-9a-f]{64})"', page)


def key(app: FastAPI, *scopes: str, name: str = "test") -> str:
    """Return the token of a new key with these scopes; without any, every one."""
    with app.state.sessions() as session:
        _, token = keys.create(session, name, scopes or ("admin",), actor="cli")
        session.commit()
    return token


def signed_in(app: FastAPI, *scopes: str, name: str = "test") -> Browser:
    """Return a browser that has signed in with a new key of these scopes."""
    browser = Browser(app)
    answer = sign_in(browser, key(app, *scopes, name=name))
    assert answer.status_code == 303, answer.text
    return browser


def sign_in(browser: Browser, token: str, **fields: str) -> Any:
    """Send the form to sign in."""
    return browser.submit("/sign-in", {"key": token, **fields}, page="/sign-in")


_BLOCKS = ("td", "th", "li", "dt", "dd", "p", "h1", "h2", "caption", "button", "summary", "option")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append(" ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def text(page: str) -> str:
    """Return the words of a page."""
    parser = _Text()
    parser.feed(page)
    return " ".join("".join(parser.parts).split())


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Return the elements of a page with their attributes, as a browser reads them."""
    parser = _Text()
    parser.feed(page)
    return parser.tags


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    """Collect the statements that the application sends to its database."""
    sent: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    event.listen(app.state.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(app.state.engine, "before_cursor_execute", note)
