"""Change the program in many small ways, one at a time, and see whether a test notices.

    python -m tests.mutants --sample 200 --seed 1

Each change is made in a copy of the checkout. There the tests that run the changed line run until
one fails, then those on PostgreSQL of the files that name the module. Which tests run a line is
learnt first, by running those of the folders (``tests.mutants.reach``), and kept in the file that
``--reach`` names. Changes that no test noticed are listed: each is a missing test, or changes
nothing. With ``--json`` an interrupted run continues: what the file holds is not judged again.
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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.mutants import changes, trial
from tests.mutants.changes import Change
from tests.mutants.reach import Reach
from tests.mutants.trial import ROOT

#: Where a change that nobody notices would cost somebody their right.
AREAS = ("service/ledger", "unlearning/verification", "unlearning/anchored", "models_store")
#: What the tables are is checked by the migrations, not by behaviour.
DECLARATIONS = ROOT / "service/ledger/database/tables"
#: A change that makes a test wait without end is noticed.
SECONDS = 240
#: Test files for one change: those first that name the module, or run the line, most often.
MOST_FILES = 6
FAST = "not slow and not postgres"

console = Console()


@dataclass(frozen=True)
class Judged:
    """A change, whether it was killed, timed out or survived, and the seconds that this took."""

    change: str
    outcome: str
    seconds: float


def main() -> None:
    """Run from the command line; exit with 1 where too many changes survive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many changes (200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--areas", nargs="*", default=AREAS, help="folders to change files of")
    parser.add_argument("--processes", type=int, default=2, help="changes judged at once (2)")
    parser.add_argument("--least", type=float, default=0.9, help="share to be noticed (0.9)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"limit of each ({SECONDS})")
    parser.add_argument("--reach", type=Path, help="keep which tests run which lines in this file")
    parser.add_argument("--json", type=Path, help="keep what became of each change in this file")
    asked = parser.parse_args()
    chosen = sample(asked.areas, asked.sample, seed=asked.seed)
    judged = _kept(asked.json, chosen)
    done = {one.change for one in judged}
    left = [one for one in chosen if str(one) not in done]
    reach = learnt(asked.reach, asked.areas) if left else Reach({}, {})
    for one in judge(left, reach, processes=asked.processes, seconds=asked.seconds):
        judged.append(one)
        if asked.json:
            asked.json.write_text(json.dumps([asdict(each) for each in judged], indent=1) + "\n")
    survived = [one for one in judged if one.outcome == "survived"]
    for one in survived:
        console.print(f"{one.outcome}: {one.change}", markup=False, highlight=False)
    noticed = 1 - len(survived) / max(1, len(judged))
    late = sum(one.outcome == "timed out" for one in judged)
    console.print(
        f"{noticed:.1%} of {len(judged)} changes noticed (at least {asked.least:.0%}), "
        f"{late} of them only by the limit of {asked.seconds} s"
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


def _kept(file: Path | None, chosen: Sequence[Change]) -> list[Judged]:
    """Return what an earlier run has found of these changes."""
    if file is None or not file.exists():
        return []
    wanted = {str(one) for one in chosen}
    return [Judged(**one) for one in json.loads(file.read_text()) if one["change"] in wanted]


def learnt(file: Path | None, areas: Sequence[str]) -> Reach:
    """Return which tests run which lines: what the file says, or else what running them shows."""
    with tempfile.TemporaryDirectory(prefix="unlearn-mutants-") as place:
        kept = file or Path(place) / "reach.json"
        if not kept.exists():
            options = ["-p", "tests.mutants.reach", "--reach", str(kept), "--reach-of", *areas]
            tests = [f"tests/{area}" for area in areas]
            command = [sys.executable, "-m", "pytest", "-q", "-m", FAST, *options, *tests]
            subprocess.run(command, cwd=ROOT, check=True)
        return Reach.read(kept)


def judge(
    chosen: Sequence[Change], reach: Reach, *, processes: int, seconds: int
) -> Iterator[Judged]:
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
                judged.put(_judge(copy, waiting.get_nowait(), reach, seconds))
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


def _judge(copy: Path, change: Change, reach: Reach, seconds: int) -> Judged:
    target, began = copy / change.path, time.monotonic()
    whole = target.read_bytes()
    target.write_bytes(change.apply(whole))
    try:
        outcome = _outcome(copy, change, reach, seconds)
    finally:
        target.write_bytes(whole)
    return Judged(str(change), outcome, round(time.monotonic() - began, 1))


def _outcome(copy: Path, change: Change, reach: Reach, seconds: int) -> str:
    """Return killed, timed out or survived."""
    for chosen in trials(change, reach):
        status = trial.run(copy, chosen, seconds=seconds)
        if status is None:
            return "timed out"
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return "killed"
    return "survived"


def trials(change: Change, reach: Reach) -> Iterator[trial.Choice]:
    """Yield tests that may notice a change: those that run its line, then what is slower."""
    named = naming(change.path) or of_folder(change.path)
    reached = reach.tests(change.path, change.line)
    files = Counter(one.partition("::")[0] for one in reached)
    first = sorted(files, key=lambda one: (Path(one) not in named[:1], -files[one], one))
    if reached:
        yield trial.Choice(first[:MOST_FILES], FAST, tuple(reached))
    # A line that no test runs is perhaps run by importing it, or in another process.
    if others := [str(one) for one in named if not reached or not reach.knows(one)]:
        yield trial.Choice(others, FAST)
    yield trial.Choice([str(one) for one in named], "not slow and postgres")


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
