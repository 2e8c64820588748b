"""Many short texts in little memory."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload


class Texts(Sequence[str]):
    """A list of texts that takes their bytes and eight more for each; it only grows."""

    def __init__(self, found: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array.array("q")
        self.extend(found)

    def extend(self, found: Iterable[str]) -> None:
        """Append texts."""
        for text in found:
            self._bytes += text.encode()
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[place] for place in range(*position.indices(len(self)))]
        place = range(len(self))[position]
        start = self._ends[place - 1] if place else 0
        return self._bytes[start : self._ends[place]].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends:
            yield self._bytes[start:end].decode()
            start = end

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]
