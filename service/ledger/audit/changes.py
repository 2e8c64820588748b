"""Say what changed, once it is committed: a log line, and an event of the trace, per audit line.

Each move of a state has an audit line in its transaction, and this is the one place that logs them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from sqlalchemy.orm import Session

from service import logs, tracing

log = logging.getLogger("service.changes")

#: Members of a line's ``data`` that are logged, where they are a name or a number.
NAMES = ("model", "dataset", "batch", "version", "method", "verdict", "attempt", "erasures")

_ORIGINS = "origins"


class Line(Protocol):
    """What is read of an audit line."""

    @property
    def actor(self) -> str: ...  # noqa: D102
    @property
    def action(self) -> str: ...  # noqa: D102
    @property
    def subject(self) -> str: ...  # noqa: D102
    @property
    def data(self) -> Mapping[str, Any]: ...  # noqa: D102


def came_from(session: Session, subject: str, origin: logs.Origin) -> None:
    """Note which HTTP request the lines about ``subject`` come from, if another than this thread's.

    A thread that records many requests in one transaction answers none of them.
    """
    session.info.setdefault(_ORIGINS, {})[subject] = origin


def tell(session: Session, lines: Iterable[Line]) -> None:
    """Log lines of a transaction that was committed."""
    origins: Mapping[str, logs.Origin] = session.info.pop(_ORIGINS, {})
    if not (log.isEnabledFor(logging.INFO) or tracing.is_on()):
        return
    for line in lines:
        origin = origins.get(line.subject)
        said, names = _said(line), _names(line)
        tracing.present().event(line.action, {f"unlearn.{one}": names[one] for one in names})
        fields = {"action": line.action, "subject": line.subject, "actor": line.actor, **names}
        come_from = {} if origin is None else origin.names()
        log.info("%s", said, extra={"fields": {**fields, **come_from}})


def _said(line: Line) -> str:
    told = (f"{name}={line.data[name]}" for name in NAMES if _is_name(line.data.get(name)))
    return " ".join([line.action, line.subject, *told])


def _names(line: Line) -> dict[str, str | int]:
    kind, _, name = line.subject.partition(":")
    found = {one: line.data[one] for one in NAMES if _is_name(line.data.get(one))}
    return {kind: name, **found} if kind in NAMES else found


def _is_name(value: object) -> bool:
    return isinstance(value, str | int)
