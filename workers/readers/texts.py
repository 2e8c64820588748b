"""Rows made of one column of texts by the kind of input, such as token ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearning.inputs import TextReader
from workers.readers import parts
from workers.readers.contract import Chunk, Columns, Notes, Options, Parts, ReadError, Recognised

#: Share of unknown tokens above which the tokenizer is not that of the texts.
_MOST_UNKNOWN = 0.5


def column(
    names: Sequence[str], columns: Columns, found: Parts, *, nested: Collection[str] = ()
) -> tuple[str, Recognised]:
    """Return the column of texts, declared or by its name, and which of the two."""
    if columns.image is not None or columns.features is not None:
        raise ReadError(
            "rows of texts come of one column; name it (columns.text) and leave columns.features "
            "and columns.image out"
        )
    parts.check_ignored(names, columns)
    chosen = parts.text(names, columns, nested=nested)
    if chosen is None or chosen[0] in found.names:
        raise ReadError(
            f"no column of texts: none of the {len(names)} columns has a usual name for it; name "
            "the one that holds the texts (columns.text)"
        )
    return chosen


def rows(
    values: Sequence[Any], options: Options, *, first: int, column: str
) -> npt.NDArray[np.int32]:
    """Return the rows of texts, (k, length); ``first`` is the number of the row of [0]."""
    reader = options.texts
    assert reader is not None
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise ReadError(
                "the text is missing, or is none; fill it in or drop the row",
                row=first + position,
                column=column,
            )
    found = reader.encode(values)
    if found.empty.any():
        raise ReadError(
            "the tokenizer finds no token in the text, or it is empty; fill it in or drop the row",
            row=first + int(np.flatnonzero(found.empty)[0]),
            column=column,
        )
    notes = options.notes
    notes.texts_truncated += int(found.truncated.sum())
    notes.tokens += found.tokens
    notes.tokens_unknown += found.unknown
    return found.x


def kept(
    chunk: Chunk, values: Sequence[Any], options: Options, *, first: int, column: str
) -> Chunk:
    """Return the chunk with its texts ``values`` (k,), if they are to be kept.

    ``first`` is the number of the row of [0].
    """
    width = options.text_bytes
    if width is None:
        return chunk
    found = np.zeros((len(values), width), np.uint8)
    for position, value in enumerate(values):
        try:
            content = value.encode()
        except UnicodeEncodeError:
            content = b"\0"
        if b"\0" in content or len(content) > width:
            raise ReadError(
                f"the text cannot be kept: it has more than {width} bytes (text_bytes), or a "
                "character that no text has; shorten it, or leave keep_text out",
                row=first + position,
                column=column,
            )
        found[position, : len(content)] = np.frombuffer(content, np.uint8)
    return replace(chunk, texts=found)


def text(row: npt.NDArray[np.uint8]) -> str:
    """Return the text of a row (bytes,) as it is kept; "" of an erased row."""
    return row.tobytes().rstrip(b"\0").decode()


def refuse_unknown(notes: Notes) -> None:
    """Refuse the source if most of its tokens are none of the tokenizer's."""
    if notes.tokens_unknown > _MOST_UNKNOWN * notes.tokens:
        raise ReadError(
            f"the tokenizer does not fit the texts: {notes.tokens_unknown} of {notes.tokens} "
            "tokens are unknown to it; bring the tokenizer of their language and writing system"
        )


def require(reader: TextReader | None, format: str, known: Collection[str]) -> None:
    """Refuse a format that cannot bring texts to a kind that is made of them."""
    if reader is not None and format not in known:
        raise ReadError(
            f"a source of the format {format} has no column of texts; bring it as "
            f"{', '.join(sorted(known))}"
        )
