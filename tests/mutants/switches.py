"""Put all changes of a program into it at once, each behind a switch.

A test process then imports the program once and tries one change after the other, and it hears
which changes a test comes by. Lines stay where they are.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.mutants.changes import Change

#: What a changed program asks, with a change's number, for whether to do as the change says.
NAME = "_mutant_is_on"


class Switches(importlib.abc.MetaPathFinder):
    """Load the changed files so that each asks here which change is on."""

    def __init__(self, root: Path, changes: Sequence[Change]) -> None:
        """Take the changes of files below ``root``; each has its place in the order as number."""
        self.on: int | None = None
        self.ran: set[int] = set()
        self._files: dict[str, dict[int, Change]] = {}
        for number, change in enumerate(changes):
            self._files.setdefault(str((root / change.path).resolve()), {})[number] = change

    def install(self) -> None:
        """Answer the programs that are imported from now on."""
        setattr(builtins, NAME, self._is_on)
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the files that have changes, as Python does, and leave the others to it."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin not in self._files:
            return None
        spec.loader = _Loader(fullname, spec.origin, self._files[spec.origin])
        return spec

    def _is_on(self, number: int) -> bool:
        self.ran.add(number)
        return number == self.on


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, changes: Mapping[int, Change]) -> None:
        super().__init__(fullname, path)
        self._changes = changes

    def get_code(self, fullname: str) -> CodeType:
        """Compile anew: what is kept on the disk has no switches."""
        source = Path(self.path).read_bytes()
        return self.source_to_code(with_switches(source, self._changes), self.path)

    def source_to_code(self, data: Any, path: Any, *_optimize: Any) -> CodeType:
        """Compile without inheriting this module's future imports."""
        return compile(data, path, "exec", dont_inherit=True)


def with_switches(source: bytes, changes: Mapping[int, Change]) -> bytes:
    """Return a program that does as a numbered change says where that is on."""
    return _within(source, 0, len(source), changes)


def _within(source: bytes, start: int, stop: int, changes: Mapping[int, Change]) -> bytes:
    """Return the bytes from ``start`` to before ``stop`` with the switches of these changes."""
    parts, at = [], start
    left = dict(sorted(changes.items(), key=lambda one: (one[1].start, -one[1].stop)))
    while left:
        number, change = next(iter(left.items()))
        del left[number]
        inside = {n: one for n, one in left.items() if one.start < change.stop}
        left = {n: one for n, one in left.items() if n not in inside}
        parts.append(source[at : change.start])
        after = "None" if change.after == "pass" else change.after
        before = _within(source, change.start, change.stop, inside)
        parts.append(b"(%s if %s(%d) else (%s))" % (after.encode(), NAME.encode(), number, before))
        at = change.stop
    return b"".join([*parts, source[at:stop]])
