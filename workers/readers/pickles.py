"""Detect pickles in any container by their names and first bytes. Nothing here loads one."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from workers.readers.contract import ReadError

_SUFFIXES = frozenset((".pkl", ".pickle", ".pt", ".pth", ".joblib", ".ckpt", ".npy"))
_COMPRESSED = frozenset((".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz4", ".z"))

#: Start of a pickle: protocols 2 to 5 have a mark; below, a dict, a list or a known module.
_START = re.compile(
    rb"\x80[\x01-\x05]"
    rb"|\((?:dp|lp)\d+\n"
    rb"|[\]}]q[\x00\x01]"
    rb"|c(?:copy_reg|__builtin__|builtins|collections|numpy[\w.]*|torch[\w.]*)\n"
)
_ZIP_START = b"PK\x03\x04"
_LONGEST_START = 64

#: Most files of a directory that are checked; readers refuse larger flat directories anyway.
_MOST_FILES = 64

#: Files of the Python versions of CIFAR-10 and CIFAR-100, in any protocol.
_PYTHON_CIFAR = (("batches.meta",), ("meta", "train"), ("meta", "test"))


def refuse(path: Path) -> None:
    """Raise ``ReadError`` for a pickle, or a directory of them; say what to convert it to."""
    if _are_in(path) if path.is_dir() else is_one(path):
        raise ReadError(
            "pickle files (.pkl, .pt, .pth, .npy, the Python version of CIFAR) are not read, "
            "because reading one runs code from it. Load it where you trust it and write "
            "np.savez('data.npz', x=rows, y=labels), or Parquet; CIFAR has a binary version"
        )


def is_one(path: Path) -> bool:
    """Return whether a file is a pickle by its name, compressed or not, or by its content."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIXES:
        return True
    with path.open("rb") as stream:
        start = stream.read(_LONGEST_START)
    return bool(_START.match(start)) or (start.startswith(_ZIP_START) and _is_torch_zip(path))


def _is_torch_zip(path: Path) -> bool:
    """Return whether it is a zip archive of ``torch.save`` (since 1.6), with a ``data.pkl``."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False  # damaged: its reader will report it
    return any(name.endswith(".pkl") for name in names)


def _are_in(directory: Path) -> bool:
    """Return whether files directly inside are pickles; with ``.bin`` files, only check these."""
    with os.scandir(directory) as entries:
        names = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    binary = {name for name in names if name.endswith(".bin")}
    if not binary and any(names.issuperset(files) for files in _PYTHON_CIFAR):
        return True
    looked_at = sorted(name for name in binary or names if not name.startswith("."))[:_MOST_FILES]
    return any(is_one(directory / name) for name in looked_at)
