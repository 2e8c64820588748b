"""Readers of dataset files, one module per format. Pickle is never read, in whatever container."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from service.ledger.database import identifiers
from service.ledger.database.identifiers import Case
from unlearning import inputs
from unlearning.errors import UnknownName, WrongOptions
from unlearning.inputs import BadFile, BadRow, Kind, TextReader
from workers.readers import (
    arrow_ipc,
    cifar_binary,
    csv,
    image_folder,
    json_lines,
    labelled_binary_csv,
    npz,
    parquet,
    pickles,
    several,
    svhn_mat,
    texts,
)
from workers.readers.contract import (
    Chunk,
    Column,
    Columns,
    Options,
    Part,
    ReadError,
    Source,
    Table,
)
from workers.readers.ids import Ids

__all__ = [
    "FORMATS",
    "Chunk",
    "Column",
    "Columns",
    "Part",
    "ReadError",
    "Source",
    "Table",
    "detect",
    "open_source",
]

FORMATS: dict[str, Callable[[Path, Options], Source]] = {
    "csv": csv.open_source,
    "parquet": parquet.open_source,
    "arrow": arrow_ipc.open_source,
    "json_lines": json_lines.open_source,
    "npz": npz.open_source,
    "cifar10_binary": cifar_binary.open_cifar10,
    "cifar100_binary": cifar_binary.open_cifar100,
    "svhn_mat": svhn_mat.open_source,
    "labelled_binary_csv": labelled_binary_csv.open_source,
    "image_folder": image_folder.open_source,
}

#: Formats with columns of texts.
_OF_TEXTS = frozenset(("csv", "parquet", "arrow", "json_lines"))

#: Formats that are folders themselves.
_OF_FOLDERS = frozenset(("image_folder", "cifar10_binary", "cifar100_binary"))

_CSV_SUFFIXES = (".csv", ".txt", ".data")
_BY_SUFFIX = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".npz": "npz",
    ".mat": "svhn_mat",
}


def open_source(
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
) -> Source:
    """Open ``path``; its chunks are checked as they are read and raise ``ReadError``.

    ``format`` is a name of ``FORMATS`` (default: ``detect``); ``classes`` bounds the labels
    (default: what the format says); ``resize`` (height, width) brings decoded images to one size.
    ``input`` gives the kind of the rows: the ``name`` and ``options`` of an installed kind
    (default: images if the rows have three axes, else a table). ``files`` holds the bytes of the
    files that its options name, by option. ``table`` says that it is a typed table.
    ``class_names`` are the words of labels in the order of their numbers (default: those of
    the source in the order of their code points, if its labels are words). With ``text_bytes``
    chunks hold the texts, each of at most so many bytes.
    Ids are normalised. Different ids with one normalised form are refused, and so are ids that
    differ by case alone, unless ``id_case`` says whether they are the same.
    """
    path = Path(path)
    name = format or detect(path)
    if name not in FORMATS:
        raise ReadError(f"unknown format; use one of {', '.join(FORMATS)}")
    _refuse_unreadable(path)
    kind, reader = (None, None) if input is None else _kind(input, files)
    texts.require(reader, name, _OF_TEXTS)
    _check_texts(columns, reader, table)
    if text_bytes is not None and reader is None:
        raise ReadError(
            "rows of this kind of input are made of no texts; leave keep_text out, or name the "
            "kind that is made of them (input)"
        )
    options = Options(
        columns=columns,
        resize=resize,
        kind=kind,
        texts=reader,
        table=table,
        class_names=class_names,
        text_bytes=text_bytes,
    )
    with _Foreign(name):
        if path.is_dir() and name not in _OF_FOLDERS:
            source = several.open_source(path, FORMATS[name], options)
        else:
            source = FORMATS[name](path, options)
    if table is not None and all(column.type is None for column in source.columns):
        raise ReadError(
            f"typed tables are not read from {name}; bring the columns as CSV, Parquet, Arrow or "
            "JSON Lines"
        )
    if classes is not None:
        if source.label_words and source.classes != classes:
            raise ReadError(
                f"the labels are {source.classes} different words, and {classes} classes are "
                "stated; leave the number out, or correct the labels",
                column=source.label_column,
            )
        source = dataclasses.replace(source, classes=classes)
    source = dataclasses.replace(source, notes=options.notes, tally=options.tally)
    return dataclasses.replace(source, chunks=_checked(source, options, id_case))


def detect(path: Path) -> str:
    """Return the format's name, by the file's name and first bytes."""
    path = Path(path)
    if not path.exists():
        raise ReadError("there is no such file")
    _refuse_unreadable(path)
    if path.is_dir():
        if any(path.glob("data_batch_*.bin")):
            return "cifar10_binary"
        if (path / "train.bin").is_file():
            return "cifar100_binary"
        return _of_all(several.files(path))
    suffix = path.suffix.lower()
    if suffix == ".bin":
        fits10 = path.stat().st_size % 3073 == 0
        return "cifar10_binary" if fits10 else "cifar100_binary"
    plain = Path(path.stem).suffix.lower() if csv.is_compressed(path) else suffix
    if plain in _CSV_SUFFIXES:
        return _kind_of_csv(path)
    if plain in _BY_SUFFIX and (plain == suffix or _BY_SUFFIX[plain] == "json_lines"):
        return _BY_SUFFIX[plain]
    raise ReadError(
        f"the format cannot be told from the file's name; name one of {', '.join(FORMATS)}"
    )


def _of_all(files: Sequence[Path]) -> str:
    """Return the format of all files of a folder; without such files it is one of images."""
    suffixes = {suffix.lower() for file in files for suffix in file.suffixes}
    if suffixes.isdisjoint((*_CSV_SUFFIXES, *_BY_SUFFIX)):
        return "image_folder"
    found = {detect(file) for file in files}
    if len(found) > 1:
        raise ReadError(
            f"the folder holds files of several formats ({', '.join(sorted(found))}); put those of "
            "one format there"
        )
    return found.pop()


def _kind_of_csv(path: Path) -> str:
    """Return the CSV format's name: without a header, all fields of the first line are numbers."""
    with _Foreign("csv"), csv.open_text(path) as stream:
        fields = stream.readline(1 << 20).replace('"', "").strip().split(",")
    numbers = all(field.strip().replace(".", "", 1).isdigit() for field in fields)
    return "labelled_binary_csv" if numbers else "csv"


def _refuse_unreadable(path: Path) -> None:
    """Refuse pickles before a reader opens the file, because reading one runs code."""
    try:
        pickles.refuse(path)
        if path.is_file() and not path.stat().st_size:
            raise ReadError("the file is empty")
    except OSError as error:
        raise ReadError(f"the file cannot be opened: {error.strerror}") from None


def _checked(source: Source, options: Options, id_case: Case | None) -> Iterator[Chunk]:
    """Yield the chunks of ``source``, checked against earlier ones, with normalised ids."""
    records = Ids(
        "record",
        column=source.record_column,
        longest=identifiers.LONGEST_RECORD_ID,
        case=id_case,
    )
    subjects = Ids(
        "subject",
        column=source.subject_column,
        longest=identifiers.LONGEST_SUBJECT_ID,
        case=id_case,
    )
    first, facts = 1, dict[str, Any]()
    with _Foreign(source.format):
        for chunk in source.chunks:
            if len(chunk.labels):
                _check_labels(chunk, source, first)
                _check_finite(chunk, source, first)
                _check_kind(chunk, source, options, first)
                facts = _facts(chunk, options)
                if chunk.record_ids:
                    now, before = records.take(chunk.record_ids, first=first)
                    chunk = dataclasses.replace(chunk, record_ids=now, record_ids_before=before)
                if chunk.subject_ids:
                    now, before = subjects.take(chunk.subject_ids, first=first)
                    chunk = dataclasses.replace(chunk, subject_ids=now, subject_ids_before=before)
                yield chunk
                first += len(chunk.labels)
        texts.refuse_unknown(source.notes)
        records.refuse_alike()
        subjects.refuse_alike()
        source.input.update(facts)
        source.notes.record_ids_normalised = records.normalised
        source.notes.subject_ids_normalised = subjects.normalised
    if first == 1:
        raise ReadError("the dataset has no rows")


def _check_labels(chunk: Chunk, source: Source, first: int) -> None:
    if source.classes is None:
        return
    wrong = np.flatnonzero((chunk.labels < 0) | (chunk.labels >= source.classes))
    if len(wrong):
        raise ReadError(
            f"the label is out of range; with {source.classes} classes labels are "
            f"0..{source.classes - 1}",
            row=first + int(wrong[0]),
            column=source.label_column,
        )


def _check_finite(chunk: Chunk, source: Source, first: int) -> None:
    if chunk.x.dtype == np.uint8 or np.isfinite(chunk.x).all():
        return
    flat = chunk.x.reshape(len(chunk.x), -1)
    row, position = np.argwhere(~np.isfinite(flat))[0]
    raise ReadError(
        "the number is NaN, infinite or too large for float32; fill it in or drop the row",
        row=first + int(row),
        column=_feature(source, int(position)),
    )


def _kind(given: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[Kind, TextReader | None]:
    """Return the kind of the rows and what makes them of texts, if it is made of them."""
    try:
        kind = inputs.kind(given["name"], given.get("options") or {})
        if kind.input.learned:
            raise ReadError(
                f"the options of the input {kind.name} are learned from the rows; declare a typed "
                "table (table) instead"
            )
        reader = kind.input.text_reader(kind.options, files)
    except (UnknownName, WrongOptions, BadFile) as error:
        raise ReadError(f"the input: {error}") from None
    if reader is None:
        return kind, None
    return dataclasses.replace(kind, options=reader.options), reader


def _check_texts(columns: Columns, reader: TextReader | None, table: Table | None) -> None:
    """Refuse a column of texts without what makes rows of it, or in a typed table."""
    if table is not None and (columns.text is not None or reader is not None):
        raise ReadError(
            "a typed table holds no texts; leave out either the table, or the input that is made "
            "of texts and columns.text"
        )
    if columns.text is not None and reader is None:
        raise ReadError(
            "columns.text names a column of texts, and no kind of input is given that is made of "
            "them; give the input (text) with its tokenizer, or leave columns.text out"
        )


def _facts(chunk: Chunk, options: Options) -> dict[str, Any]:
    """Return the facts of the rows' kind, given that they have one shape and dtype.

    Return {} for a typed table: its encoding is learned once its training rows are known.
    """
    if options.table is not None:
        return {}
    shape = chunk.x.shape[1:]
    kind = options.kind or inputs.kind(inputs.of_rows(shape), {})
    return inputs.facts(kind, shape, str(chunk.x.dtype))


def _check_kind(chunk: Chunk, source: Source, options: Options, first: int) -> None:
    kind = options.kind
    if kind is None:
        return
    options.check_axes(chunk.x.shape[1:], column=None)
    if chunk.x.dtype.name not in kind.input.dtypes:
        known = " or ".join(kind.input.dtypes)
        raise ReadError(
            f"rows of the kind {kind.name} are {known}, and the format gives {chunk.x.dtype}; "
            "bring them as NPZ, Parquet or CSV"
        )
    try:
        kind.input.check(chunk.x, kind.options)
    except BadRow as bad:
        raise ReadError(
            bad.reason,
            row=first + bad.row,
            column=None if bad.position is None else _feature(source, bad.position),
        ) from None


def _feature(source: Source, position: int) -> str:
    """Return the name of a feature, by its position within a row."""
    names = source.feature_names
    return names[position] if names else f"{source.rows_column}[{position}]"


class _Foreign:
    """Turns any exception of a format's parser on damaged bytes into a ``ReadError``.

    Parsers quote the data in their messages, so only the kind of their error is passed on.
    """

    def __init__(self, format: str) -> None:
        self._format = format

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or issubclass(kind, ReadError) or not issubclass(kind, Exception):
            return
        raise ReadError(
            f"the file cannot be read as {self._format} ({kind.__name__}); "
            "check that it is complete and of this format"
        ) from None
