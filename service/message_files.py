"""Celery's messages as files of the state directory, for the embedded form.

A transport of kombu. Messages are hints, so a file that is not a valid message (empty, cut off, of
another kind) is removed and never ends a worker. Each process keeps its exchanges in memory and
declares what it uses, so that no file of exchanges can be damaged.
"""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual
from kombu.utils.json import dumps, loads

#: The scheme of a broker URL for this transport.
SCHEME = "messagefiles"

#: kombu's functions have no types.
_dumps: Any = dumps
_loads: Any = loads
_BrokerState: Any = virtual.BrokerState

log = logging.getLogger(__name__)


def register() -> None:
    """Register the scheme with kombu in this process."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"


class Channel(filesystem.Channel):
    """Messages in ``data_folder_out`` and ``data_folder_in``, which are the same folder here."""

    supports_fanout = False
    get_table = virtual.Channel.get_table
    _delete = virtual.Channel._delete

    def _put(self, queue: Any, payload: Any, **_: Any) -> None:  # type: ignore[override]  # kombu's own differ
        """Write a message; it appears under its name complete or not at all."""
        name = f"{time.time_ns():020}_{uuid.uuid4()}.{queue}.msg"
        path = Path(self.data_folder_out) / name
        unfinished = path.with_suffix(".tmp")
        try:
            unfinished.write_text(_dumps(payload), encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise ChannelError(f"a message cannot be written: {error.strerror}") from error

    def _get(self, queue: Any, timeout: Any = None) -> Any:
        """Take the oldest valid message of the queue; remove invalid ones."""
        for name in sorted(path.name for path in Path(self.data_folder_in).iterdir()):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            payload = self._take(Path(self.data_folder_in) / name)
            if payload is not None:
                return payload
        raise Empty

    def _take(self, path: Path) -> Any:
        """Return the file's message and remove the file; None if it is gone or invalid."""
        claimed = Path(self.processed_folder) / path.name
        try:
            path.replace(claimed)
            content = claimed.read_bytes()
            claimed.unlink()
        except OSError:
            return None
        try:
            payload = _loads(content.decode())
            read_as: Any = self.Message
            read_as(payload, channel=self)
        except Exception as error:  # any error means that it is not a message
            log.warning("a file that is not a message was removed (%s)", type(error).__name__)
            return None
        return payload


class Transport(filesystem.Transport):
    """The transport of the scheme ``messagefiles``."""

    Channel = Channel
    implements = virtual.Transport.implements.extend(exchange_type=frozenset(["direct", "topic"]))
    #: Separate from the state of kombu's own transport.
    global_state: Any = _BrokerState()
