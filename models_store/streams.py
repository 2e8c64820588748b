"""Streams of bytes: a part of a file, and reading into buffers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from typing_extensions import Buffer

PIECE_BYTES = 1 << 20


class Part(io.RawIOBase):
    """The next ``size`` bytes of a stream; closing it closes the stream."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._stream.read(min(len(view), self._left))
        view[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        super().close()


class File:
    """A file on disk as ``Content``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = path.stat().st_size

    def pieces(self) -> Iterator[memoryview]:
        """Yield the file's bytes, from its beginning."""
        with self._path.open("rb") as stream:
            yield from pieces(stream)


def part(stream: BinaryIO, size: int) -> BinaryIO:
    """Return a stream of the next ``size`` bytes of ``stream``."""
    return io.BufferedReader(Part(stream, size))


def pieces(stream: BinaryIO) -> Iterator[memoryview]:
    """Yield the rest of ``stream`` piece by piece."""
    while piece := stream.read(PIECE_BYTES):
        yield memoryview(piece)
