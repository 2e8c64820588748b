"""A pickle under any name, alone or in a directory, is told as one and never loaded."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from workers import readers
from workers.readers import ReadError


class Exploit:
    """Leaves a directory behind wherever it is loaded."""

    def __reduce__(self):
        return os.mkdir, (os.environ["UNLEARN_TEST_EXPLOIT"],)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    trace = tmp_path / "ran"
    monkeypatch.setenv("UNLEARN_TEST_EXPLOIT", str(trace))
    yield
    assert not trace.exists()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


def assert_refused_as_pickle(path: Path, format: str | None = None) -> None:
    with pytest.raises(ReadError) as refused:
        for _ in readers.open_source(path, format).chunks:
            pass
    for word in ("Pickle files", "np.savez", "binary version"):
        assert word in str(refused.value)


def write(protocol: int = 2) -> bytes:
    return pickle.dumps({"data": Exploit(), "labels": [1, 2]}, protocol=protocol)


# Directories.


@pytest.mark.parametrize("format", [None, "image_folder", "cifar10_binary", "cifar100_binary"])
@pytest.mark.parametrize(
    "names",
    [
        ["batches.meta", "data_batch_1", "data_batch_2", "readme.html", "test_batch"],
        ["file.txt~", "meta", "test", "train"],
        ["a", "b"],
    ],
)
def test_directory_of_pickles(place: Path, names: list[str], format: str | None) -> None:
    for name in names:
        text = name.endswith(("html", "~"))
        (place / name).write_bytes(b"what this is" if text else write())
    assert_refused_as_pickle(place, format)


@pytest.mark.parametrize("names", [["batches.meta", "data_batch_1"], ["meta", "test", "train"]])
def test_python_version_of_cifar_is_known_by_its_files(place: Path, names: list[str]) -> None:
    for name in names:
        (place / name).write_bytes(b"written by something unheard of")
    assert_refused_as_pickle(place)


def test_pickle_among_binary_files_is_refused_under_their_name_only(place: Path) -> None:
    record = bytes(3073)
    (place / "data_batch_1.bin").write_bytes(record)
    (place / "batches.meta").write_bytes(write())
    assert sum(len(chunk.labels) for chunk in readers.open_source(place).chunks) == 1
    (place / "data_batch_2.bin").write_bytes(write())
    assert_refused_as_pickle(place)


def test_directory_of_other_files_is_no_directory_of_pickles(place: Path) -> None:
    (place / "meta").write_text("about the pictures")
    with pytest.raises(ReadError, match="directories only"):
        readers.open_source(place)


# Files.


def save_torch(path: Path) -> None:
    """As ``torch.save`` writes it, with something in it that must not be loaded."""
    torch.save({"x": torch.zeros(2), "y": Exploit()}, path)


def save_torch_by_hand(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", write())


@pytest.mark.parametrize("save", [save_torch, save_torch_by_hand])
@pytest.mark.parametrize("name", ["x.bin", "x.data", "x.txt", "x.csv", "x.npz", "x", "x.dat"])
def test_torch_file_under_another_name(
    place: Path, save: Callable[[Path], None], name: str
) -> None:
    save(place / name)
    assert_refused_as_pickle(place / name)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", ["x.pkl.gz", "x.pickle.bz2", "x.pt.xz", "X.PKL.GZ", "a.b.pth.zst"])
def test_compressed_pickle(place: Path, compress: Callable[[bytes], bytes], name: str) -> None:
    (place / name).write_bytes(compress(write()))
    assert_refused_as_pickle(place / name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["x.csv", "x.bin", "x.data"])
def test_every_protocol(place: Path, protocol: int, name: str) -> None:
    (place / name).write_bytes(write(protocol))
    assert_refused_as_pickle(place / name)
    (place / name).write_bytes(pickle.dumps([np.zeros(2), Exploit()], protocol=protocol))
    assert_refused_as_pickle(place / name)


# What only looks a little like one.


@pytest.mark.parametrize("header", ["class,a", "(dp),a", "collections,label"])
def test_table_that_begins_like_a_pickle_is_read(place: Path, header: str) -> None:
    path = place / "x.csv"
    first, second = header.split(",")
    label = second if second == "label" else first
    path.write_text(f"{header}\n0,1\n1,0\n")
    source = readers.open_source(path, columns=readers.Columns(label=label))
    assert sum(len(chunk.labels) for chunk in source.chunks) == 2


def test_other_compressed_file_is_still_told_to_name_its_format(place: Path) -> None:
    (place / "x.mat.gz").write_bytes(gzip.compress(b"label,a\n0,1\n"))
    with pytest.raises(ReadError, match="cannot be told"):
        readers.open_source(place / "x.mat.gz")
