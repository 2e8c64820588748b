"""Files that a reader must refuse, and the error it refuses them with."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from workers import readers
from workers.readers import ReadError

PLANTED = "alice-7f3a"


def fail(path, format=None, **options):
    """The ReadError that reading all of ``path`` ends with."""
    with pytest.raises(ReadError) as caught:
        for _ in readers.open_source(path, format, **options).chunks:
            pass
    assert PLANTED not in str(caught.value)
    return caught.value


def at(error):
    return error.row, error.column


def text(tmp_path, content, name="x.csv"):
    path = tmp_path / name
    path.write_text(content)
    return path


def encode(size, mode="RGB", format="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, (size[1], size[0])).save(buffer, format)
    return buffer.getvalue()


def write_images(path, encoded):
    column = pa.array(
        [{"bytes": b, "path": PLANTED} for b in encoded],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"img": column, "label": [0] * len(encoded)}), path)
    return path
