"""The hash chain, without a database: what a line's hash covers, and how a line is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.ledger.audit import canonical

#: ``previous_hash`` of the first line.
GENESIS = "0" * 64


def line_hash(line: Mapping[str, Any]) -> str:
    """Return SHA-256 over the canonical form of a line without its own hash.

    A line has ``seq``, ``at``, ``actor``, ``action``, ``subject``, ``data`` and ``previous_hash``.
    """
    return canonical.digest({name: value for name, value in line.items() if name != "hash"})


@dataclass(frozen=True)
class Prepared:
    """The canonical form of a line without the parts that depend on its place in the chain.

    It is made before the chain is locked, so that the lock is only held for the hashes.
    """

    #: Text up to the moment; from there to the previous hash; after the number.
    opening: str
    middle: str
    ending: str

    @classmethod
    def of(cls, *, actor: str, action: str, subject: str, data: Mapping[str, Any]) -> Prepared:
        """Return the prepared form of a line that has no place in the chain yet."""
        # Members in the order of their names, as in the canonical form.
        return cls(
            f'{{"action":{_text(action)},"actor":{_text(actor)},"at":"',
            f'","data":{_text(data)},"previous_hash":"',
            f',"subject":{_text(subject)}}}',
        )

    def hash_at(self, *, seq: int, at: str, previous_hash: str) -> str:
        """Return the line's ``line_hash`` at this place and moment (RFC 3339)."""
        content = f'{self.opening}{at}{self.middle}{previous_hash}","seq":{seq}{self.ending}'
        return hashlib.sha256(content.encode()).hexdigest()


def problem(line: Mapping[str, Any], *, seq: int, previous_hash: str) -> str | None:
    """Return what is wrong with a line that should be number ``seq`` after ``previous_hash``."""
    if line["seq"] != seq:
        return "the line is missing"
    if line["previous_hash"] != previous_hash:
        return "the line does not follow the one before"
    return own_problem(line)


def own_problem(line: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a line regardless of its neighbours."""
    try:
        right = line["hash"] == line_hash(line)
    except ValueError:
        right = False
    return None if right else "the line was changed"


def _text(value: Any) -> str:
    return canonical.encode(value).decode()
