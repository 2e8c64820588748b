"""Shapes of health."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from ..answers import Answer


class Health(Answer):
    """The process answers."""

    status: str | None = None


class Readiness(Answer):
    """Everything that a deletion needs is available."""

    status: str | None = None
    database: str | None = None
    #: not needed: without a broker workers find their work a little later
    broker: str
    #: a worker wrote a heartbeat within the last seconds
    worker: str | None = None
    #: checkpoints and rows can be read and written
    store: str | None = None
