"""Contents that are put into the store: bytes in memory, and files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Bytes:
    """See ``models_store.protocols.Content``."""

    content: bytes

    @property
    def size_bytes(self) -> int:
        """Return the number of bytes."""
        return len(self.content)

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes."""
        yield memoryview(self.content)


@dataclass(frozen=True)
class File:
    """See ``models_store.protocols.Content``."""

    path: Path

    @property
    def size_bytes(self) -> int:
        """Return the file's size."""
        return self.path.stat().st_size

    def pieces(self) -> Iterator[memoryview]:
        """Yield the file's bytes, a few megabytes at a time."""
        with self.path.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield memoryview(piece)
