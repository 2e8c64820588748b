"""Arrow's own format, as a file or as a stream (Feather version 2 is the file)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from workers.readers import parquet
from workers.readers.contract import Options, Source

_FILE_START = b"ARROW1"


def open_source(path: Path, options: Options) -> Source:
    """Open a file or a stream; columns as in Parquet."""
    return parquet.open_table(path, "arrow", _Arrow(path), options)


class _Arrow:
    """See ``parquet.Table``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._is_file = stream.read(len(_FILE_START)) == _FILE_START
        self.exact = self._is_file
        with pa.memory_map(str(path)) as source:
            if self._is_file:
                reader = pa.ipc.open_file(source)
                counts = (reader.get_batch(n).num_rows for n in range(reader.num_record_batches))
                self.schema, self.rows = reader.schema, sum(counts)
            else:
                self.schema, self.rows = pa.ipc.open_stream(source).schema, 1

    def batches(
        self, columns: Sequence[str], rows: int, *, features: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self._path)) as source:
            for batch in self._all(source):
                batch.validate(full=True)  # offsets of a damaged file would be read unchecked
                chosen = _plain(batch.select(list(columns)))
                for start in range(0, chosen.num_rows, rows):
                    yield chosen.slice(start, rows)

    def are_bytes(self, columns: Sequence[str]) -> bool:
        return parquet.are_bytes(self, columns)

    def _all(self, source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
        if not self._is_file:
            yield from pa.ipc.open_stream(source)
            return
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with the values of dictionaries in their place."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
