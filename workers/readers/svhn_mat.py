"""SVHN, format 2 (cropped digits): ``train_32x32.mat``, ``test_32x32.mat``, ``extra_32x32.mat``.

``X`` is (height, width, channels, n) uint8 and ``y`` (n, 1) with 1..9 for the digits 1 to 9 and 10
for the digit 0. The file is decompressed whole: ``extra`` needs about 1.7 GB of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from workers.readers import values
from workers.readers.contract import (
    Chunk,
    Column,
    Options,
    Part,
    ReadError,
    Recognised,
    Source,
)

_CHUNK_ROWS = 4096


def open_source(path: Path, options: Options) -> Source:
    """Open a file: images (channels, height, width) uint8, labels 0..9 equal to the digit."""
    x, y = _variables(path)
    if x.ndim != 4 or x.dtype != np.uint8:
        raise ReadError("expected images (height, width, channels, n) in uint8", column="X")
    if y.size != x.shape[3] or y.dtype.kind not in "iuf":
        raise ReadError(f"expected one number for each of {x.shape[3]} images", column="y")
    return Source(
        path=path,
        format="svhn_mat",
        rows=x.shape[3],
        exact=True,
        label_column="y",
        classes=10,
        columns=[
            Column("y", Part.LABEL, Recognised.POSITION),
            Column("X", Part.FEATURE, Recognised.POSITION),
        ],
        chunks=_chunks(x, y.reshape(-1)),
    )


def _variables(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return ``X`` and ``y``; nothing else of the file is read."""
    try:
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        for name in ("X", "y"):
            if name not in shapes:
                raise ReadError(
                    "the file has no such variable; is it SVHN's format 2?", column=name
                )
        found = scipy.io.loadmat(path, variable_names=["X", "y"])
    except NotImplementedError:
        raise ReadError(
            "not a MATLAB 5 file; in MATLAB write it with save(..., '-v7'), or convert it to NPZ"
        ) from None
    return found["X"], found["y"]


def _chunks(x: npt.NDArray[np.uint8], y: npt.NDArray[Any]) -> Iterator[Chunk]:
    labels = values.labels(y, first=1, column="y")
    wrong = (labels < 1) | (labels > 10)
    if wrong.any():
        row = 1 + int(np.flatnonzero(wrong)[0])
        raise ReadError("SVHN's labels are 1 to 10", row=row, column="y")
    for start in range(0, len(labels), _CHUNK_ROWS):
        here = slice(start, start + _CHUNK_ROWS)
        images = np.ascontiguousarray(np.transpose(x[..., here], (3, 2, 0, 1)))
        yield Chunk(x=images, labels=labels[here] % 10)
