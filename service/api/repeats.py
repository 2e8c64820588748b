"""Endpoints whose transaction was given up for another one's sake are called once more."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service.ledger.database import transactions

_MARK = "__repeated_once__"


def once(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return an endpoint that is repeated on its session, rolled back, after a deadlock.

    An endpoint without a session, and one that waits for others (``async``), is returned as it is.
    All that an endpoint does before its commit must stand being repeated.
    """
    if inspect.iscoroutinefunction(endpoint) or hasattr(endpoint, _MARK):
        return endpoint

    @functools.wraps(endpoint)
    def call(*args: Any, **given: Any) -> Any:
        session = next((one for one in given.values() if isinstance(one, Session)), None)
        try:
            return endpoint(*args, **given)
        except DBAPIError as error:
            if session is None or not transactions.is_victim(error):
                raise
            session.rollback()
        return endpoint(*args, **given)

    setattr(call, _MARK, True)
    return call
