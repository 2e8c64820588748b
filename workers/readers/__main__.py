"""The reading process: each line of standard input names a source; frames go to standard output.

Parsers of foreign bytes run here, apart from the worker: a crash ends this process and nothing
else. It has access neither to the database nor to secrets.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import IO

from service.ledger.database.identifiers import Case
from workers import readers
from workers.readers import frames
from workers.readers.contract import Columns, ReadError, Table


def main() -> None:
    """Serve until standard input ends, which also happens when the worker is killed."""
    # Standard output carries the frames: whatever a library prints goes to standard error.
    output = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            _serve(line, output)
        except BrokenPipeError:
            return


def _serve(line: str, output: IO[bytes]) -> None:
    asked = json.loads(line)
    try:
        source = readers.open_source(
            Path(asked["path"]),
            asked["format"],
            columns=Columns(**asked["columns"]),
            classes=asked["classes"],
            resize=None if asked["resize"] is None else tuple(asked["resize"]),
            id_case=None if asked["id_case"] is None else Case(asked["id_case"]),
            input=asked["input"],
            files={option: base64.b64decode(one) for option, one in asked["files"].items()},
            table=None if asked["table"] is None else Table(**asked["table"]),
            class_names=asked["class_names"],
            text_bytes=asked["text_bytes"],
        )
        frames.write(output, frames.of_source(source))
        for chunk in source.chunks:
            frames.write(output, frames.of_chunk(chunk))
        frames.write(output, frames.of_end(source))
    except ReadError as error:
        place = {"reason": error.reason, "row": error.row, "column": error.column}
        frames.write(output, frames.Frame("refused", place))
    except BrokenPipeError:
        raise
    except Exception as error:  # its message may quote the data; only its class is passed on
        frames.write(output, frames.Frame("failed", {"name": type(error).__name__}))


if __name__ == "__main__":
    main()
