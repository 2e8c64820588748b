"""Names of workers, made of machine and process; no name is used twice."""

from __future__ import annotations

import os
import secrets
import socket


def machine() -> str:
    """Return the name of this machine; in a container, that of the container."""
    return socket.gethostname()


def new() -> str:
    """Return a new name for a worker in this process."""
    return f"{machine()}-{os.getpid()}-{secrets.token_hex(3)}"


def is_here(name: str) -> bool:
    """Return whether a worker of this name was started on this machine."""
    return name.rsplit("-", 2)[0] == machine()
