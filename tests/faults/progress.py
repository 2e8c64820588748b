"""The file that a long run writes as it goes, so that one that was ended goes on where it was.

The first line says what was aimed at and with which code; each of the others is a run that is over.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tests.faults.outcome import Outcome

_ROOT = Path(__file__).parents[2]
_CODE = ("service", "workers", "unlearning", "models_store", "migrations", "tests/faults")


class Differs(Exception):
    """The file is of another aim, or of other code."""


class Progress:
    """Runs that are over, by their numbers; each is on disk before it counts."""

    def __init__(self, path: Path, aim: dict[str, Any], *, resume: bool) -> None:
        """Go on with the file, or begin it; ``Differs`` when it cannot be gone on with."""
        self.path = path
        self.done: dict[int, Outcome] = {}
        head = json.loads(json.dumps({**aim, "code": code()}))
        if resume and path.exists():
            self._read(head)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head) + "\n")

    def add(self, number: int, outcome: Outcome) -> None:
        """Write a run down that is over."""
        with self.path.open("a") as stream:
            stream.write(json.dumps({"number": number, "outcome": outcome.as_json()}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.done[number] = outcome

    def _read(self, head: dict[str, Any]) -> None:
        whole, _, torn = self.path.read_text().rpartition("\n")
        first, *others = whole.split("\n")
        was = json.loads(first)
        other = sorted(name for name in head.keys() | was.keys() if head.get(name) != was.get(name))
        if other:
            raise Differs(
                f"{self.path} is of a run with another {', '.join(other)}: begin anew without "
                "--resume, or give the same options with the same code"
            )
        for line in others:
            told = json.loads(line)
            self.done[told["number"]] = Outcome.from_json(told["outcome"])
        if torn:  # written when the process was killed: that run is made again
            self.path.write_text(whole + "\n")


def code() -> str:
    """Return a digest of the programs that are run, as text of 16 digits."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(_ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
