"""Read sources in a process of their own, so that a parser's crash does not end the worker."""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from service.ledger.database.identifiers import Case
from workers.readers import frames
from workers.readers.contract import Chunk, Columns, Notes, ReadError, Source, Table, Tally

#: How often ``waiting`` is called while the process is silent.
WATCH_SECONDS = 1.0
#: A process that sends nothing for this long counts as hung.
SILENT_SECONDS = 600.0
#: A process that has read more than this ends with its source, to free its memory.
_KEEP_BYTES = 64 << 20
#: Environment variables, by prefix, that a parser has no use for: secrets and places.
_WITHHELD = ("UNLEARN_", "AWS_")


@contextlib.contextmanager
def opened(
    path: Path,
    format: str | None = None,
    *,
    columns: Columns = Columns(),  # noqa: B008 - frozen, so one default can be shared
    classes: int | None = None,
    resize: tuple[int, int] | None = None,
    id_case: Case | None = None,
    input: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
    table: Table | None = None,
    class_names: Sequence[str] | None = None,
    text_bytes: int | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Source]:
    """Open a source as ``readers.open_source`` does; another process reads it within the block.

    ``waiting`` is called about once a second while nothing comes; what it raises ends the process
    and is raised from here. ``ReadError``: the file is refused, or its parser crashed or hangs.
    """
    path = Path(path)
    asked = {
        "path": str(path.absolute()),
        "format": format,
        "columns": asdict(columns),
        "classes": classes,
        "resize": resize,
        "id_case": id_case,
        "input": None if input is None else dict(input),
        "files": {option: base64.b64encode(one).decode() for option, one in files.items()},
        "table": None if table is None else asdict(table),
        "class_names": None if class_names is None else list(class_names),
        "text_bytes": text_bytes,
    }
    notes, kept, tally = Notes(), dict[str, Any](), Tally()
    with contextlib.closing(_received(asked, waiting)) as received:
        facts = frames.source_facts(next(received))
        yield Source(
            path=path,
            chunks=_chunks(received, notes, kept, tally),
            notes=notes,
            input=kept,
            tally=tally,
            **facts,
        )


def _chunks(
    received: Iterator[frames.Frame], notes: Notes, kept: dict[str, Any], tally: Tally
) -> Iterator[Chunk]:
    for frame in received:
        if frame.kind == "end":
            vars(notes).update(frame.facts["notes"])
            kept.update(frame.facts["input"])
            found = frame.facts["tally"]
            tally.rows, tally.columns = found["rows"], found["columns"]
            tally.found = {name: set(words) for name, words in found["found"].items()}
        else:
            yield frames.chunk(frame)


def _received(
    asked: dict[str, Any], waiting: Callable[[], None]
) -> Generator[frames.Frame, None, None]:
    """Yield the frames of a source up to its end; then keep the process, or end it."""
    process = _take()
    try:
        process.ask(asked)
        read = 0
        while True:
            frame = process.next(waiting)
            if frame.kind == "refused":
                _give_back(process, read)
                raise ReadError(**frame.facts)
            if frame.kind == "failed":
                raise ReadError(
                    f"the file cannot be read ({frame.facts['name']}); check that it is complete"
                )
            yield frame
            if frame.kind == "end":
                _give_back(process, read)
                return
            read += sum(array.nbytes for array in frame.arrays.values())
    finally:
        process.close()


class _Process:
    """One reading process, with a thread that reads its frames from the pipe."""

    def __init__(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_WITHHELD)
        }
        self._process = subprocess.Popen(  # our own interpreter, our own module
            [sys.executable, "-m", "workers.readers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C at the terminal is for the worker
        )
        assert self._process.stdout is not None
        # At most one frame waits here: a source is not read faster than it is stored.
        self._frames: queue.Queue[frames.Frame | Exception | None] = queue.Queue(maxsize=1)
        self._free = False
        self._ended = threading.Event()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, asked: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; ``next`` raises the reason
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()

    def next(self, waiting: Callable[[], None]) -> frames.Frame:
        since = time.monotonic()
        while True:
            try:
                frame = self._frames.get(timeout=WATCH_SECONDS)
            except queue.Empty:
                waiting()
                if time.monotonic() - since > SILENT_SECONDS:
                    raise ReadError("reading the file takes too long and was stopped") from None
                continue
            if isinstance(frame, frames.Frame):
                return frame
            raise ReadError(self._why_it_ended())

    def keep(self) -> None:
        """Keep the process running when the source that it read is closed."""
        self._free = True

    def close(self) -> None:
        """End the process, unless it is kept."""
        if self._free:
            self._free = False
            return
        self.kill()

    def kill(self) -> None:
        self._ended.set()
        self._process.kill()
        self._process.wait()

    def _why_it_ended(self) -> str:
        self._process.kill()  # in case it runs but sent something other than a frame
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return (
            f"the file's parser ended with {how}: the file is damaged, or there was not enough "
            "memory to read it; check it with another program, or give the worker more memory"
        )

    def _read(self, stream: IO[bytes]) -> None:
        try:
            while (frame := frames.read(stream)) is not None:
                if not self._put(frame):
                    return
            self._put(None)
        except Exception as error:  # what is no frame
            self._put(error)

    def _put(self, frame: frames.Frame | Exception | None) -> bool:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=1.0)
                return True
        return False


_idle: list[_Process] = []
_lock = threading.Lock()


def _take() -> _Process:
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.alive:
                return process
    return _Process()


def _give_back(process: _Process, read: int) -> None:
    """Keep the process for the next source, if none is kept yet and it read little."""
    with _lock:
        if read <= _KEEP_BYTES and not _idle:
            process.keep()
            _idle.append(process)


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().kill()
