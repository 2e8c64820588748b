"""Repeat endpoints whose transaction the database aborted because of a deadlock."""

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
    """Return an endpoint that is called once more, on its rolled-back session, after a deadlock.

    An endpoint without a session, or an ``async`` one, is returned unchanged. What an endpoint does
    before its commit must be safe to repeat.
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
