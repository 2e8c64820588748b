"""By when a request must be done: the periods of regulations, and how far they may be extended."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Regulation(StrEnum):
    """The rule by which a request's due date is set."""

    GDPR = "gdpr"  # Art. 12(3): one month, and up to two more
    CCPA = "ccpa"  # Cal. Civ. Code 1798.130(a)(2): 45 days, and once 45 more
    CUSTOM = "custom"  # as many days as were asked for; not extended


#: How often the period may be added once more.
MOST_EXTENSIONS = {Regulation.GDPR: 2, Regulation.CCPA: 1, Regulation.CUSTOM: 0}

_CCPA = timedelta(days=45)


@dataclass(frozen=True)
class Period:
    """How long a request may take; ``days`` of a custom one."""

    regulation: Regulation = Regulation.GDPR
    days: int | None = None

    def due(self, asked: datetime, *, extensions: int = 0) -> datetime:
        """Return the due date of what was asked at this moment, extended so often."""
        if self.regulation == Regulation.GDPR:
            return months_later(asked, 1 + extensions)
        if self.regulation == Regulation.CCPA:
            return asked + (1 + extensions) * _CCPA
        if self.days is None:
            raise ValueError("a custom period needs a number of days")
        return asked + timedelta(days=self.days)


def months_later(asked: datetime, months: int) -> datetime:
    """Return the moment so many calendar months later; on the month's last day if it is shorter."""
    year, month = divmod(asked.year * 12 + asked.month - 1 + months, 12)
    day = min(asked.day, calendar.monthrange(year, month + 1)[1])
    return asked.replace(year=year, month=month + 1, day=day)
