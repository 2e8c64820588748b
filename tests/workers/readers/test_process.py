"""Sources read by a process of their own: whatever happens to it, the worker goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from workers import readers
from workers.readers import Columns, ReadError, process

ROWS, FEATURES = 12_000, 150


def write_csv(path: Path, rows: int = ROWS) -> Path:
    names = [f"a{number}" for number in range(FEATURES)]
    values = ",".join(map(str, range(FEATURES)))
    lines = [f" r{row},p{row // 3},{row % 3},{values}" for row in range(rows)]
    path.write_text("\n".join([",".join(["id", "subject", "label", *names]), *lines]))
    return path


def reading_processes() -> list[int]:
    """Process ids of this process's children that read sources."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "workers.readers" in command:
            found.append(int(stat.parent.name))
    return found


def rows(path: Path) -> int:
    with process.opened(path) as source:
        return sum(map(len, source.chunks))


def test_rows_facts_and_notes_are_those_of_the_reader(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv")
    options = {"columns": Columns(subject_id="subject"), "classes": 4}
    here = readers.open_source(path, **options)
    expected = list(here.chunks)
    with process.opened(path, **options) as source:
        found = list(source.chunks)
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))
    for field in dataclasses.fields(source):
        if field.name != "chunks":
            assert getattr(source, field.name) == getattr(here, field.name)
    assert source.notes.record_ids_normalised == ROWS


def test_a_refusal_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("label,a\n0,1\n1,oops\n")
    with pytest.raises(ReadError) as here:
        list(readers.open_source(path).chunks)
    with pytest.raises(ReadError) as refusal:
        rows(path)
    assert str(refusal.value) == str(here.value)
    assert (refusal.value.row, refusal.value.column) == (here.value.row, here.value.column)
    assert refusal.value.row == 2


def test_a_file_that_crashes_its_parser_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"X": np.zeros((4, 4, 3, 5), np.uint8), "y": np.ones((5, 1))})
    assert rows(path) == 5
    content = bytearray(path.read_bytes())
    # The type of an element, by which SciPy reads beyond a table: its process crashes, mostly.
    content[184] = 255
    path.write_bytes(content)
    with pytest.raises(ReadError):
        rows(path)
    assert rows(write_csv(tmp_path / "x.csv")) == ROWS


def test_a_process_killed_in_mid_read_is_a_refusal(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", rows=36_000)
    with process.opened(path) as source:
        assert len(next(source.chunks)) < 36_000
        (pid,) = reading_processes()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ReadError, match="SIGKILL"):
            list(source.chunks)
    assert reading_processes() == []


def test_a_source_left_early_leaves_no_process(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", rows=36_000)
    with process.opened(path) as source:
        next(source.chunks)
        assert len(reading_processes()) == 1
    assert reading_processes() == []


def test_what_stops_the_wait_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    os.mkfifo(path)  # nobody writes: its reader waits without end

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), process.opened(path, waiting=stop):
        pytest.fail("nothing can be read")
    assert reading_processes() == []


def test_the_process_is_kept_for_the_next_source_and_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_SUBJECT_KEY", "a-secret-of-the-service")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-service")
    for pid in reading_processes():
        os.kill(pid, signal.SIGKILL)
    path = write_csv(tmp_path / "x.csv")
    assert rows(path) == ROWS
    (pid,) = reading_processes()
    assert rows(path) == ROWS
    assert reading_processes() == [pid]
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"a-secret-of-the-service" not in environment
