"""Files for the readers, written in their official layouts, and their content read back."""

import csv
import io
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from workers import readers


def read(path, format=None, **options):
    """All chunks of a file as one, and the source."""
    source = readers.open_source(path, format, **options)
    chunks = list(source.chunks)

    def joined(part):
        found = [getattr(chunk, part) for chunk in chunks]
        if found[0] is None:
            assert all(one is None for one in found)
            return None
        return (
            list(itertools.chain(*found)) if isinstance(found[0], list) else np.concatenate(found)
        )

    parts = ("x", "labels", "record_ids", "subject_ids", "splits")
    return readers.Chunk(**{part: joined(part) for part in parts}), source


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def encode(pixels, format="PNG", mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(buffer, format)
    return buffer.getvalue()


def colour_images(n, size=(5, 4), seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, *size, 3), dtype=np.uint8)


def write_images(path, encoded, *, labels=None, names=None, plain=False):
    n = len(encoded)
    image = (
        pa.array(encoded, pa.binary())
        if plain
        else pa.array(
            [{"bytes": b, "path": p} for b, p in zip(encoded, names or [None] * n, strict=True)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    )
    pq.write_table(pa.table({"img": image, "label": labels or [0] * n}), path)
    return path
