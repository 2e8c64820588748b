"""Damaged files of every format meet a ReadError or are read; nothing else happens."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workers import readers
from workers.readers import ReadError, process

N = 12


def csv_file():
    lines = ["id,subject,split,label,a,b"]
    lines += [f"r{i},s{i // 2},train,{i % 3},{i * 0.5},{i % 5}" for i in range(N)]
    return "\n".join(lines).encode()


def binary_csv_file():
    return "\n".join(f"{1 + i % 3},{i % 2},1,0" for i in range(N)).encode()


def npz_file():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(N * 4).reshape(N, 2, 2), y=np.arange(N) % 3)
    return buffer.getvalue()


def parquet_file():
    buffer = io.BytesIO()
    columns = {"id": [f"r{i}" for i in range(N)], "label": [i % 3 for i in range(N)]}
    pq.write_table(pa.table({**columns, "a": np.arange(N) * 0.5}), buffer)
    return buffer.getvalue()


def image_parquet_file():
    image = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(image, "JPEG")
    buffer = io.BytesIO()
    images = [{"bytes": image.getvalue(), "path": "x.jpg"}] * 3
    pq.write_table(pa.table({"img": images, "label": [0, 1, 2]}), buffer, compression="none")
    return buffer.getvalue()


def svhn_file():
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"X": np.zeros((2, 2, 3, N), np.uint8), "y": np.ones((N, 1))})
    return buffer.getvalue()


FILES = {
    "csv": csv_file(),
    "labelled_binary_csv": binary_csv_file(),
    "npz": npz_file(),
    "parquet": parquet_file(),
    "parquet of images": image_parquet_file(),
    "svhn_mat": svhn_file(),
}


def read_or_refuse(content, format):
    """True when the whole content was read; any error but ReadError fails the test."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "data"
        path.write_bytes(content)
        try:
            # Apart, as a worker does: SciPy ends its process on some damaged MATLAB files.
            with process.opened(path, format) as source:
                for chunk in source.chunks:
                    assert chunk.x.dtype in (np.uint8, np.float32)
                    assert np.isfinite(chunk.x).all()
                    assert len(chunk.x) == len(chunk.labels)
                    assert chunk.labels.min() >= 0
        except ReadError:
            return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_the_undamaged_file_is_read(name):
    assert read_or_refuse(FILES[name], name.split()[0])


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(name, data):
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 5))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    read_or_refuse(bytes(content[:cut]), name.split()[0])


@pytest.mark.parametrize("format", ["csv", "labelled_binary_csv"])
@settings(max_examples=60, deadline=None)
@given(content=st.text(alphabet='0123456789.,-+eE"\n\r naNIinflabelsplitid\x00é', max_size=120))
def test_text_that_looks_like_a_table_is_read_or_refused(format, content):
    read_or_refuse(b"label,a\n" + content.encode() if format == "csv" else content.encode(), format)


@pytest.mark.parametrize("format", list(readers.FORMATS))
@settings(max_examples=15, deadline=None)
@given(content=st.binary(max_size=200))
def test_noise_is_refused(format, content):
    assert not read_or_refuse(content, format)
