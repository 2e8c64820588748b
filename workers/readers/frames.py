"""The output of a reading process: frames, each a line of JSON and then the bytes of its arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from workers.readers.contract import Chunk, Column, Part, Recognised, Source

_ARRAYS = ("x", "labels", "splits", "texts")
_TEXTS = ("record_ids", "subject_ids", "record_ids_before", "subject_ids_before")
_FACTS = (
    "format", "rows", "exact", "label_column", "classes", "class_names", "record_column",
    "subject_column", "feature_names", "rows_column", "label_words",
)  # fmt: skip


class BadFrame(Exception):
    """The stream ended in mid-frame, or holds something other than a frame."""


@dataclass(frozen=True)
class Frame:
    """``kind``: source, chunk, end, refused (the file is wrong) or failed (the reader raised)."""

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)


def write(stream: IO[bytes], frame: Frame) -> None:
    """Write one frame and flush."""
    arrays = {name: np.ascontiguousarray(array) for name, array in frame.arrays.items()}
    layout = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    head = {"kind": frame.kind, "facts": frame.facts, "arrays": layout}
    stream.write(json.dumps(head).encode() + b"\n")
    for array in arrays.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def read(stream: IO[bytes]) -> Frame | None:
    """Return the next frame, None at the end of the stream; raise ``BadFrame``."""
    line = stream.readline()
    if not line:
        return None
    try:
        head = json.loads(line)
        arrays = {
            name: _array(stream, np.dtype(dtype), tuple(shape))
            for name, (dtype, shape) in head["arrays"].items()
        }
        return Frame(head["kind"], head["facts"], arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFrame(f"no frame ({type(error).__name__})") from None


def of_source(source: Source) -> Frame:
    """Return the frame that describes a source, before its first chunk."""
    facts = {name: getattr(source, name) for name in _FACTS}
    columns = [[one.name, one.part, one.recognised, one.type, one.stated] for one in source.columns]
    return Frame("source", {**facts, "columns": columns})


def source_facts(frame: Frame) -> dict[str, Any]:
    """Return the facts of ``of_source`` as arguments of ``Source``."""
    facts = {name: frame.facts[name] for name in _FACTS}
    columns = [
        Column(name, Part(part), Recognised(recognised), type, stated)
        for name, part, recognised, type, stated in frame.facts["columns"]
    ]
    return {**facts, "columns": columns}


def of_chunk(chunk: Chunk) -> Frame:
    """Return the frame of some rows."""
    arrays = {name: getattr(chunk, name) for name in _ARRAYS}
    facts = {name: getattr(chunk, name) for name in _TEXTS}
    facts["readings"] = list(chunk.readings.items())
    return Frame("chunk", facts, {k: v for k, v in arrays.items() if v is not None})


def chunk(frame: Frame) -> Chunk:
    """Return the rows of ``of_chunk``."""
    texts = {name: frame.facts[name] for name in _TEXTS}
    arrays: dict[str, Any] = {name: frame.arrays.get(name) for name in _ARRAYS}
    return Chunk(**arrays, **texts, readings=dict(frame.facts["readings"]))


def of_end(source: Source) -> Frame:
    """Return the last frame of a source: what reading it changed, and the facts of its rows."""
    tally = {
        "rows": source.tally.rows,
        "columns": source.tally.columns,
        "found": {name: sorted(words) for name, words in source.tally.found.items()},
    }
    notes = dict(vars(source.notes))
    return Frame("end", {"notes": notes, "input": source.input, "tally": tally})


def _array(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    array = np.empty(shape, dtype)
    if array.dtype.hasobject:
        raise BadFrame("an array of objects")
    view = array.reshape(-1).view(np.uint8).data
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise BadFrame("the stream ended in mid-frame")
        view = view[count:]
    return array
