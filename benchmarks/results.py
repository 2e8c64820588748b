"""What every benchmark writes: a table for people, JSON for machines, targets at the end."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

FOLDER = Path(__file__).parent / "results"
console = Console(highlight=False)


@dataclass(frozen=True)
class Target:
    """A number that was to be reached: at least (or at most) ``bound``."""

    name: str
    value: float
    bound: float
    met: bool


def at_least(name: str, value: float, bound: float) -> Target:
    """A target from below."""
    return Target(name, value, bound, value >= bound)


def at_most(name: str, value: float, bound: float) -> Target:
    """A target from above."""
    return Target(name, value, bound, value <= bound)


def median_seconds(
    run: Callable[[], T], *, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, T]:
    """Median seconds of ``repeats`` runs by ``clock``, after one that does not count."""
    result = run()
    taken = []
    for _ in range(repeats):
        began = clock()
        result = run()
        taken.append(clock() - began)
    return statistics.median(taken), result


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)


def show_targets(targets: Sequence[Target]) -> None:
    """Print targets as a table."""
    rows = [(t.name, t.value, t.bound, "yes" if t.met else "NO") for t in targets]
    show("Targets", ("target", "value", "bound", "met"), rows)


def shown(path: Path) -> Path:
    """Return a path from the working directory, if it is in there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write(name: str, measured: dict[str, Any], targets: Sequence[Target]) -> Path:
    """Write ``results/NAME.json``, which ends with the targets, and print these."""
    show_targets(targets)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    content = {"machine": machine(), **measured, "targets": [asdict(t) for t in targets]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"Written to {shown(path)}")
    return path
