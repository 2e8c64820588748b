"""The form of a tokenizer.json, looked at in a process of its own with bounded memory and time.

Parsed JSON may take dozens of times the bytes of the file, and parsing keeps all other threads
waiting. Run as a program this file, which imports nothing else of ours, reads a tokenizer.json from
its input and ends with one of the codes below.
"""

from __future__ import annotations

import json
import subprocess
import sys
from enum import IntEnum

#: Address space and CPU seconds that a check may take. The largest tokenizers of multilingual
#: models take a third of it.
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
#: Seconds after which a process that waits for a processor is given up.
_WALL_SECONDS = 120.0


class Form(IntEnum):
    """What a file is; the exit code of the program. Codes below are the interpreter's own."""

    TOKENIZER = 0
    NOT_JSON = 10
    NO_VOCABULARY = 11


def of(content: bytes) -> Form:
    """Return what the bytes are; what takes too much memory or time is no tokenizer.json."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, this file
            [sys.executable, "-I", "-S", __file__],
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Form.NOT_JSON
    return Form(done.returncode) if done.returncode in list(Form) else Form.NOT_JSON


def look(content: bytes) -> Form:
    """Return what the bytes are, in this process."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError, MemoryError):
        return Form.NOT_JSON
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not model.get("vocab"):
        return Form.NO_VOCABULARY
    return Form.TOKENIZER


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    raise SystemExit(look(sys.stdin.buffer.read()))


if __name__ == "__main__":
    _main()
