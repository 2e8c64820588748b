"""A folder with one directory per identity or class, as VGGFace2 is laid out: ``n000001/01.jpg``.

Rows are the files in the byte order of their relative paths, which is what
``find . -type f | LC_ALL=C sort`` lists. The label is the position of the directory among the
sorted directories, the subject is the directory's name, the record id the relative path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workers.readers import images
from workers.readers.contract import (
    Chunk,
    Column,
    Options,
    Part,
    ReadError,
    Recognised,
    Source,
)

_CHUNK_ROWS = 256


def open_source(path: Path, options: Options) -> Source:
    """Open the folder; images are (channels, height, width) uint8, of one size or ``resize``."""
    names = _list_images(path)
    identities = sorted({name.split("/")[0] for name in names})
    return Source(
        path=path,
        format="image_folder",
        rows=len(names),
        exact=True,
        label_column="directory",
        classes=len(identities),
        record_column="file",
        subject_column="directory",
        columns=[
            Column("directory", Part.LABEL, Recognised.POSITION),
            Column("directory", Part.SUBJECT_ID, Recognised.POSITION),
            Column("file", Part.RECORD_ID, Recognised.POSITION),
            Column("file", Part.FEATURE, Recognised.POSITION),
        ],
        chunks=_chunks(path, names, identities, options),
    )


def _list_images(path: Path) -> list[str]:
    names = []
    for identity in os.scandir(path):
        if identity.name.startswith("."):
            continue
        _refuse_link(identity)
        if not identity.is_dir():
            raise ReadError(
                "the folder may hold directories only, one for each identity, or only files of one "
                "format of tables"
            )
        for file in os.scandir(identity.path):
            if file.name.startswith("."):
                continue
            _refuse_link(file)
            if not file.is_file():
                raise ReadError("a directory inside an identity's directory; put the images flat")
            names.append(f"{identity.name}/{file.name}")
    return sorted(names, key=os.fsencode)


def _refuse_link(entry: os.DirEntry[str]) -> None:
    """Refuse a link, which could lead out of the directory that the operator allowed."""
    if entry.is_symlink():
        raise ReadError("the folder holds a symbolic link; put the files themselves there")


def _chunks(
    path: Path, names: list[str], identities: list[str], options: Options
) -> Iterator[Chunk]:
    number = {identity: position for position, identity in enumerate(identities)}
    decoder = images.Decoder(options, column="file")
    for start in range(0, len(names), _CHUNK_ROWS):
        here = names[start : start + _CHUNK_ROWS]
        subjects = [name.split("/")[0] for name in here]
        encoded = [(path / name).read_bytes() for name in here]
        yield Chunk(
            x=decoder.decode(encoded, first=start + 1),
            labels=np.array([number[subject] for subject in subjects], np.int64),
            record_ids=here,
            subject_ids=subjects,
        )
