"""Pauses before what failed is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_

#: The longest pause between two attempts.
LONGEST = timedelta(minutes=10)
#: By how much clocks may differ.
_TOLERANCE = timedelta(minutes=1)


def may_begin(
    not_before: Any, now: datetime, *, longest: timedelta = LONGEST
) -> ColumnElement[bool]:
    """Return SQL: the column names no moment that is still to come.

    A moment further away than the ``longest`` pause was stored before the clock was set back, and
    counts as past: otherwise the work would wait for as long as the clock was wrong.
    """
    return or_(not_before.is_(None), not_before <= now, not_before > now + longest + _TOLERANCE)
