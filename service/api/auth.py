"""Who is calling and what they may do.

A key's row is kept in memory for a second, so that a busy client costs one look-up per second and
a revoked key stops working within that second in every API process. The secret itself is compared
on every request, in constant time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session, sessionmaker

from service.errors import Forbidden, Unauthorized
from service.ledger import db, keys
from service.ledger.tables import ApiKey

MAX_AGE_SECONDS = 1.0
MAX_CACHED = 4096


@dataclass(frozen=True)
class Principal:
    """The key behind a request."""

    key_id: str
    scopes: frozenset[str]

    @property
    def actor(self) -> str:
        """How the audit chain names it."""
        return f"key:{self.key_id}"

    def may(self, scope: str) -> bool:
        """Whether the key has this scope; ``admin`` has every one."""
        return scope in self.scopes or keys.Scope.ADMIN in self.scopes


class KeyCache:
    """Rows of recently shown keys, none older than a second."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._rows: dict[str, tuple[float, ApiKey]] = {}
        self._reading: set[str] = set()

    async def principal(self, token: str) -> Principal | None:
        """The principal of a token in force, or None."""
        presented = keys.parse(token)
        if presented is None:
            return None
        read_at, row = self._rows.get(presented.id, (0.0, None))
        age = time.monotonic() - read_at
        # One caller reads a row again early; those who come meanwhile are served from memory,
        # unless the row is really old.
        reading = presented.id in self._reading
        if row is None or age > MAX_AGE_SECONDS or (age > MAX_AGE_SECONDS / 2 and not reading):
            row = await self._reread(presented.id)
        if row is None or not keys.opens(row, presented, now=db.now()):
            return None
        return Principal(row.id, frozenset(row.scopes))

    async def _reread(self, key_id: str) -> ApiKey | None:
        started = time.monotonic()
        self._reading.add(key_id)
        try:
            row = await run_in_threadpool(self._read, key_id)
        finally:
            self._reading.discard(key_id)
        if row is None:
            self._rows.pop(key_id, None)
            return None
        if len(self._rows) >= MAX_CACHED:
            self._rows.clear()
        self._rows[key_id] = (started, row)
        return row

    def _read(self, key_id: str) -> ApiKey | None:
        with self._sessions() as session:
            return keys.find(db.read_only(session), key_id)


_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key made with `unlearn keys create`, as `Authorization: Bearer unl_…`.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def require(scope: str) -> Any:
    """A dependency that lets in keys with this scope: ``Annotated[Principal, auth.require(…)]``."""
    return Depends(_checker(keys.Scope(scope)))


def unauthorized() -> Unauthorized:
    """The refusal of a call without a valid key."""
    return Unauthorized(
        "send a valid API key as 'Authorization: Bearer unl_…'; "
        "an operator makes one with: unlearn keys create"
    )


def _checker(scope: keys.Scope) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def check(request: Request, credentials: Credentials) -> Principal:
        cache: KeyCache = request.app.state.keys
        principal = None
        if credentials is not None:
            principal = await cache.principal(credentials.credentials)
        if principal is None:
            raise unauthorized()
        if not principal.may(scope):
            raise Forbidden(f"this API key lacks the scope {scope}; ask for a key that has it")
        request.app.state.limiter.take(principal.key_id)
        return principal

    return check
