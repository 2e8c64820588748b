"""The binary version of CIFAR-10 and CIFAR-100 (cs.toronto.edu/~kriz/cifar.html).

A record is the label (CIFAR-100: coarse label, then fine label), one byte each, then 3,072 bytes:
the red, green and blue planes of 32x32 pixels, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.readers.contract import (
    Chunk,
    Column,
    Options,
    Part,
    ReadError,
    Recognised,
    Source,
)

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class _Variant:
    """``labels`` bytes precede the pixels of a record; the one at ``position`` is read.

    The authors' file ``names`` beside the records has the classes' names, a line each.
    """

    format: str
    column: str
    labels: int
    position: int
    classes: int
    names: str


_CIFAR10 = _Variant("cifar10_binary", "label", 1, 0, 10, "batches.meta.txt")
_COARSE = _Variant("cifar100_binary", "coarse_label", 2, 0, 20, "coarse_label_names.txt")
_FINE = _Variant("cifar100_binary", "fine_label", 2, 1, 100, "fine_label_names.txt")


def open_cifar10(path: Path, options: Options) -> Source:
    """Open one ``.bin`` file, or the directory of ``data_batch_1.bin`` to ``data_batch_5.bin``.

    A directory stands for the training files; ``test_batch.bin`` is read by its own path.
    """
    return _open(path, _CIFAR10, "data_batch_*.bin")


def open_cifar100(path: Path, options: Options) -> Source:
    """Open ``train.bin``, ``test.bin``, or the directory, which stands for ``train.bin``.

    The label column is ``fine_label`` (100 classes, the default) or ``coarse_label`` (20).
    """
    wanted = options.columns.label or "fine_label"
    choice = {"fine_label": _FINE, "fine": _FINE, "coarse_label": _COARSE, "coarse": _COARSE}
    if wanted not in choice:
        raise ReadError("CIFAR-100 has fine_label and coarse_label", column=wanted)
    return _open(path, choice[wanted], "train.bin")


def _open(path: Path, variant: _Variant, pattern: str) -> Source:
    files = sorted(path.glob(pattern)) if path.is_dir() else [path]
    if not files:
        raise ReadError(f"the directory holds no {pattern}")
    record_bytes = variant.labels + _PIXELS
    for number, file in enumerate(files, start=1):
        if file.stat().st_size % record_bytes:
            raise ReadError(
                f"file {number} of {len(files)} is not a whole number of {record_bytes}-byte "
                "records; download it again, or check which CIFAR it is"
            )
    return Source(
        path=path,
        format=variant.format,
        rows=sum(file.stat().st_size for file in files) // record_bytes,
        exact=True,
        label_column=variant.column,
        classes=variant.classes,
        class_names=_class_names(files[0].with_name(variant.names)),
        columns=[
            Column(variant.column, Part.LABEL, Recognised.POSITION),
            Column("pixels", Part.FEATURE, Recognised.POSITION),
        ],
        chunks=_chunks(files, variant),
    )


def _class_names(file: Path) -> list[str] | None:
    if not file.is_file() or file.is_symlink():
        return None
    return [name for name in file.read_text(encoding="utf-8").splitlines() if name]


def _chunks(files: list[Path], variant: _Variant) -> Iterator[Chunk]:
    record_bytes = variant.labels + _PIXELS
    for file in files:
        with file.open("rb") as stream:
            while content := stream.read(_CHUNK_ROWS * record_bytes):
                records = np.frombuffer(content, np.uint8).reshape(-1, record_bytes)
                yield Chunk(
                    x=records[:, variant.labels :].reshape(-1, *_SHAPE),
                    labels=records[:, variant.position].astype(np.int64),
                )
