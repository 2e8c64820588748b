"""Processes below a process, as Linux tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def below(pid: int) -> Iterator[int]:
    """Every process that descends from this one."""
    for child in children_of(pid):
        yield child
        yield from below(child)


def lives(pid: int) -> bool:
    """Whether the process has not ended."""
    return state_of(pid) not in ("", "Z")


def children_of(pid: int) -> Iterator[int]:
    """Processes that this one has started, but not theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, task.read_text().split())
        except OSError:
            continue


def state_of(pid: int) -> str:
    """Its letter in /proc (T: stopped, Z: ended); empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
