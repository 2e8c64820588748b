"""Change the program in many small ways, one at a time, and see whether a test notices.

    python -m tests.mutants --sample 200 --seed 1

The tests of the folder that stands for the changed one are tried first (``tests.mutants.forks``):
each change by those that run it, the quickest first. Changes that these do not notice are made in a
copy of the checkout, one at a time, where the test files that name the module run, with those on
PostgreSQL and the longer ones. Changes that no test noticed are listed: each is a missing test, or
changes nothing. With ``--keep`` an interrupted run continues: what the folder holds is not judged
again.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.mutants import changes, trial
from tests.mutants.changes import Change
from tests.mutants.forks import Judged, add, read
from tests.mutants.trial import ROOT

#: Where a change that nobody notices would cost somebody their right.
AREAS = ("service/ledger", "unlearning/verification", "unlearning/anchored", "models_store")
#: What the tables are is checked by the migrations, not by behaviour.
DECLARATIONS = ROOT / "service/ledger/database/tables"
#: A change that makes a test wait without end is noticed.
SECONDS = 900
#: Test files for one change in a copy: those first that name the module most often.
MOST_FILES = 6
NOTICED = ("killed", "timed out")
#: The options of ``tests.mutants.forks`` and how the files end that they name.
FILES = {"changes": "json", "judged": "jsonl", "learnt": "jsonl"}
FAST = "not slow and not postgres"

console = Console()


def main() -> None:
    """Run from the command line; exit with 1 where too many changes survive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many changes (200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--areas", nargs="*", default=AREAS, help="folders to change files of")
    parser.add_argument("--processes", type=int, default=2, help="changes judged at once (2)")
    parser.add_argument("--least", type=float, default=0.9, help="share to be noticed (0.9)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"limit of each ({SECONDS})")
    parser.add_argument("--keep", type=Path, help="keep what became of each change in this folder")
    asked = parser.parse_args()
    chosen = sample(asked.areas, asked.sample, seed=asked.seed)
    with tempfile.TemporaryDirectory(prefix="unlearn-mutants-") as place:
        keep: Path = (asked.keep or Path(place)).resolve()
        keep.mkdir(parents=True, exist_ok=True)
        near(chosen, asked.areas, keep, processes=asked.processes)
        judged = {
            one.change: one for file in keep.glob("*-judged.jsonl") for one in read(file, Judged)
        }
        left = [one for one in chosen if judged[str(one)].outcome not in NOTICED]
        copies = keep / "copies.jsonl"
        done = {one.change for one in read(copies, Judged)}
        again = [one for one in left if str(one) not in done]
        for one in judge(again, processes=asked.processes, seconds=asked.seconds):
            add(copies, one)
        judged |= {one.change: one for one in read(copies, Judged)}
    found = [judged[str(one)] for one in chosen]
    survived = [one for one in found if one.outcome not in NOTICED]
    for one in survived:
        console.print(f"{one.outcome}: {one.change}", markup=False, highlight=False)
    noticed = 1 - len(survived) / max(1, len(found))
    late = sum(one.outcome == "timed out" for one in found)
    console.print(
        f"{noticed:.1%} of {len(found)} changes noticed (at least {asked.least:.0%}), "
        f"{late} of them only by the limit of time"
    )
    sys.exit(noticed < asked.least)


def sample(areas: Sequence[str], count: int, *, seed: int) -> list[Change]:
    """Return changes drawn from all of these folders' files, each equally likely."""
    found = [
        change
        for area in areas
        for path in sorted((ROOT / area).rglob("*.py"))
        if DECLARATIONS not in path.parents
        for change in changes.of(path.relative_to(ROOT), path.read_bytes())
    ]
    return random.Random(seed).sample(found, min(count, len(found)))


def near(chosen: Sequence[Change], areas: Sequence[str], keep: Path, *, processes: int) -> None:
    """Judge the changes of each area by its own tests, some areas at once; keep it in files."""

    def work(area: str) -> None:
        inside = [one for one in chosen if one.path.is_relative_to(area)]
        name = area.replace("/", "-")
        files = {key: keep / f"{name}-{key}.{end}" for key, end in FILES.items()}
        done = {one.change for one in read(files["judged"], Judged)}
        if all(str(one) in done for one in inside):
            return
        asked = json.dumps([asdict(one) | {"path": one.path.as_posix()} for one in inside])
        if files["changes"].exists() and files["changes"].read_text() != asked:
            files["learnt"].unlink(missing_ok=True)  # it names changes by their numbers
        files["changes"].write_text(asked)
        options = [text for key, file in files.items() for text in (f"--{key}", str(file))]
        command = [sys.executable, "-m", "pytest", "-q", "-m", FAST, "-p", "tests.mutants.forks"]
        with (keep / f"{name}.log").open("w") as log:
            subprocess.run([*command, *options, f"tests/{area}"], cwd=ROOT, check=True, stdout=log)

    with ThreadPoolExecutor(processes) as pool:
        for _ in pool.map(work, areas):
            pass


def judge(chosen: Sequence[Change], *, processes: int, seconds: int) -> Iterator[Judged]:
    """Judge each change in one of ``processes`` copies of the checkout, as they are done."""
    trial.prepare()
    waiting: queue.SimpleQueue[Change] = queue.SimpleQueue()
    for change in chosen:
        waiting.put(change)
    judged: queue.SimpleQueue[Judged | Exception] = queue.SimpleQueue()

    def work(copy: Path) -> None:
        try:
            _copy(copy)
            while True:
                judged.put(_judge(copy, waiting.get_nowait(), seconds))
        except queue.Empty:
            pass
        except Exception as error:  # told by the thread that waits
            judged.put(error)

    with (
        tempfile.TemporaryDirectory(prefix="unlearn-mutants-") as place,
        Progress(console=console) as bar,
    ):
        task = bar.add_task("changes", total=len(chosen))
        for number in range(processes):
            copy = Path(place) / str(number)
            threading.Thread(target=work, args=(copy,), daemon=True).start()
        for _ in chosen:
            one = judged.get()
            if isinstance(one, Exception):
                raise one
            yield one
            bar.advance(task)


def _copy(to: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _judge(copy: Path, change: Change, seconds: int) -> Judged:
    target, began = copy / change.path, time.monotonic()
    whole = target.read_bytes()
    target.write_bytes(change.apply(whole))
    try:
        outcome = _outcome(copy, change, seconds)
    finally:
        target.write_bytes(whole)
    return Judged(str(change), outcome, "", round(time.monotonic() - began, 1))


def _outcome(copy: Path, change: Change, seconds: int) -> str:
    """Return killed, timed out or survived."""
    named = naming(change.path) or of_folder(change.path)
    status = trial.run(copy, [str(one) for one in named], marks="not slow", seconds=seconds)
    if status is None:
        return "timed out"
    passed = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    return "survived" if passed else "killed"


def naming(path: Path) -> list[Path]:
    """Return the test files that name a module, those first that do so most often."""
    package, module = ".".join(path.parent.parts), path.stem
    if module == "__init__":
        package, _, module = package.rpartition(".")
    names = re.compile(
        rf"{re.escape(package)}\.{module}\b|from {re.escape(package)} import[^)]*?\b{module}\b"
    )
    uses = re.compile(rf"\b{module}\.")
    found: list[tuple[bool, int, Path]] = []
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        text = test.read_text()
        if names.search(text):
            own = test.stem == f"test_{module}"
            found.append((own, len(uses.findall(text)), test.relative_to(ROOT)))
    found.sort(key=lambda one: (not one[0], -one[1], one[2]))
    return [test for _, _, test in found[:MOST_FILES]]


def of_folder(path: Path) -> list[Path]:
    """Return the tests of the nearest folder that has some and stands for the module's."""
    for folder in path.parents:
        found = sorted((ROOT / "tests" / folder).glob("test_*.py"))
        if found:
            return [test.relative_to(ROOT) for test in found]
    return [Path("tests")]


if __name__ == "__main__":
    main()
