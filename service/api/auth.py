"""Authentication by API key, and authorization by the key's scopes.

A key's row is cached for a second, so that a busy client costs one look-up per second and a revoked
key stops working within that second in every API process. The secret itself is compared on every
request, in constant time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.orm import Session, sessionmaker

from service.errors import Forbidden, Unauthorized
from service.ledger.database import db
from service.ledger.database.tables import ApiKey
from service.ledger.registry import keys

MAX_AGE_SECONDS = 1.0
MAX_CACHED = 4096


#: Threads that look up keys seen here before, and threads for other keys: a client that sends one
#: invented key after another delays only itself.
THREADS = {True: 8, False: 4}

#: Attribute of a request that holds its principal.
_ADMITTED = "unlearn.principal"

_Place = tuple[asyncio.AbstractEventLoop, str]


@dataclass(frozen=True)
class Principal:
    """The key behind a request."""

    key_id: str
    scopes: frozenset[str]

    @property
    def actor(self) -> str:
        """Return the name of the key in the audit chain."""
        return f"key:{self.key_id}"

    def may(self, scope: str) -> bool:
        """Return whether the key has this scope; ``admin`` includes every scope."""
        return scope in self.scopes or keys.Scope.ADMIN in self.scopes


class KeyCache:
    """Rows of recently used keys, none older than a second."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._rows: dict[str, tuple[float, ApiKey]] = {}
        self._reading: dict[_Place, asyncio.Task[ApiKey | None]] = {}
        self._limiters: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[bool, CapacityLimiter]
        ] = WeakKeyDictionary()

    async def principal(self, token: str) -> Principal | None:
        """Return the principal of a valid token, or None."""
        presented = keys.parse(token)
        if presented is None:
            return None
        read_at, row = self._rows.get(presented.id, (0.0, None))
        age = time.monotonic() - read_at
        if row is None or age > MAX_AGE_SECONDS:
            row = await self._read(presented.id)
        elif age > MAX_AGE_SECONDS / 2:
            self._begin_to_read(presented.id)
        if row is None or not keys.opens(row, presented, now=db.now()):
            return None
        return Principal(row.id, frozenset(row.scopes))

    async def _read(self, key_id: str) -> ApiKey | None:
        return await asyncio.shield(self._begin_to_read(key_id))

    def _begin_to_read(self, key_id: str) -> asyncio.Task[ApiKey | None]:
        # One look-up at a time for all callers with the same key.
        place = (asyncio.get_running_loop(), key_id)
        running = self._reading.get(place)
        if running is None:
            running = self._reading[place] = asyncio.create_task(self._reread(key_id))
            running.add_done_callback(lambda done: self._end(place, done))
        return running

    def _end(self, place: _Place, done: asyncio.Task[ApiKey | None]) -> None:
        self._reading.pop(place, None)
        if not done.cancelled():
            done.exception()  # mark it as retrieved; the callers that await the task raise it

    async def _reread(self, key_id: str) -> ApiKey | None:
        started = time.monotonic()
        row = await to_thread.run_sync(self._find, key_id, limiter=self._limiter(key_id))
        if row is None:
            self._rows.pop(key_id, None)
            return None
        if len(self._rows) >= MAX_CACHED:
            self._rows.clear()
        self._rows[key_id] = (started, row)
        return row

    def _limiter(self, key_id: str) -> CapacityLimiter:
        loop = asyncio.get_running_loop()
        limiters = self._limiters.get(loop)
        if limiters is None:
            limiters = {known: CapacityLimiter(threads) for known, threads in THREADS.items()}
            self._limiters[loop] = limiters
        return limiters[key_id in self._rows]

    def _find(self, key_id: str) -> ApiKey | None:
        with self._sessions() as session:
            return keys.find(db.read_only(session), key_id)


#: OpenAPI security scheme; an endpoint that depends on it requires a key.
scheme = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key made with `unlearn keys create`, as `Authorization: Bearer unl_…`.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]


def require(scope: str, *wider: str) -> Any:
    """Return a dependency that requires a key with this scope, which the document names.

    A key with one of the ``wider`` scopes, which open more than that, may do it as well. Use it as
    ``Annotated[Principal, auth.require(…)]``.
    """
    enough = [keys.Scope(one) for one in (scope, *wider)]
    return Security(_checker(enough), scopes=[enough[0].value])


async def admit(request: Request) -> Principal:
    """Return the caller's principal, by the headers alone; 401 without a valid key.

    Looked up once per request: a route asks before it reads the body, its endpoint after.
    """
    admitted: Principal | None = request.scope.get(_ADMITTED)
    if admitted is not None:
        return admitted
    kind, token = get_authorization_scheme_param(request.headers.get("authorization"))
    cache: KeyCache = request.app.state.keys
    admitted = await cache.principal(token) if kind.lower() == "bearer" else None
    if admitted is None:
        raise unauthorized()
    request.scope[_ADMITTED] = admitted
    return admitted


def unauthorized() -> Unauthorized:
    """Return the error for a call without a valid key."""
    return Unauthorized(
        "send a valid API key as 'Authorization: Bearer unl_…'; "
        "an operator makes one with: unlearn keys create"
    )


def lacks(scope: keys.Scope) -> Forbidden:
    """Return the error for a call whose key lacks this scope."""
    return Forbidden(f"this API key lacks the scope {scope}; ask for a key that has it")


def _checker(enough: Sequence[keys.Scope]) -> Callable[..., Coroutine[Any, Any, Principal]]:
    async def check(request: Request, _credentials: Credentials) -> Principal:
        principal = await admit(request)
        if not any(map(principal.may, enough)):
            raise lacks(enough[0])
        await request.app.state.limiter.admit(principal.key_id)
        return principal

    return check
