"""The hash chain itself, without any database: what a line's hash covers and what must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.ledger import canonical

#: ``previous_hash`` of the first line.
GENESIS = "0" * 64


def line_hash(line: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical form of everything in a line but its own hash.

    A line has ``seq``, ``at``, ``actor``, ``action``, ``subject``, ``data`` and ``previous_hash``.
    """
    return canonical.digest({name: value for name, value in line.items() if name != "hash"})


def problem(line: Mapping[str, Any], *, seq: int, previous_hash: str) -> str | None:
    """What is wrong with a line that should be number ``seq`` and follow ``previous_hash``."""
    if line["seq"] != seq:
        return "the line is missing"
    if line["previous_hash"] != previous_hash:
        return "the line does not follow the one before"
    return own_problem(line)


def own_problem(line: Mapping[str, Any]) -> str | None:
    """What is wrong with a line looked at alone."""
    try:
        right = line["hash"] == line_hash(line)
    except ValueError:
        right = False
    return None if right else "the line was changed"
