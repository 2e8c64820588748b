"""Audit the auditor: attacks must not pass, honest retrains must not fail.

    python -m benchmarks.auditor [--quick] [--worlds 20] [--data ../shared/data] [--only digits]

Worlds are drawn from two data sets; of each a base that knows its rows, models for margins, and
retrains without ten sets of rows. Trained networks and finished worlds lie in
``benchmarks/cache/auditor``: a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import parts, results
from benchmarks.auditor import report, table, worlds
from benchmarks.auditor.report import Measured
from benchmarks.auditor.table import Counts
from benchmarks.auditor.worlds import Trained
from benchmarks.methods import files
from benchmarks.progress import Steps, Tell
from unlearning.anchored.margins import Splits

#: Worlds of each data set, and sets of rows to forget of each.
_WORLDS, _SETS, _QUICK_WORLDS, _QUICK_SETS = 20, 10, 2, 2
#: Of the sets of each world, for how many the honest retrain is judged (200 of both data sets), and
#: how many are attacked, and cut into small batches.
_HONEST, _ATTACKED, _SMALL = 5, 1, 1
_SPLITS = Splits(2, 2)
_SOURCES = ("digits", "cifar")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two worlds of each data set")
    parser.add_argument("--worlds", type=int, help=f"of each data set, {_WORLDS} unless quick")
    parser.add_argument("--only", nargs="*", help="data sets; judged and kept, not reported")
    parser.add_argument("--unfinished", action="store_true", help="report what is judged so far")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument("--again", action="store_true", help="judge anew what was judged before")
    asked = parser.parse_args()
    worlds.DATA = asked.data
    count = asked.worlds or (_QUICK_WORLDS if asked.quick else _WORLDS)
    sets = _QUICK_SETS if asked.quick else _SETS
    sources = asked.only or _SOURCES
    seeds = {
        name: [
            seed
            for seed in range(count)
            if not asked.unfinished or _path("covered", name, seed, sets).exists()
        ]
        for name in sources
    }
    measured = {}
    with Steps([1.0] * sum(map(len, seeds.values()))) as steps:
        for name in sources:
            found = []
            for seed in seeds[name]:
                tell = steps.begin(f"{name}, world {seed + 1} of {len(seeds[name])}")
                found.append(_measured(name, seed, sets, tell, again=asked.again))
            measured[name] = Measured(
                len(found),
                sets,
                table.add_up(one.counts for one in found),
                _sum(one.covered for one in found),
                parts.distinct(version for one in found for version in one.code),
            )
        steps.end()
    if asked.only is not None:
        return
    name = "auditor-quick" if asked.quick else "auditor"
    command = f"python -m benchmarks.auditor {'--quick' if asked.quick else f'--worlds {count}'}"
    path = report.write(name, measured, command=command)
    results.console.print(f"Report: {path}")


@dataclass(frozen=True)
class _World:
    """What was judged in a world, which intervals held what they should, and by which code."""

    counts: Counts
    covered: Counter[str]
    code: list[dict[str, str]]


def _measured(name: str, seed: int, sets: int, tell: Tell, *, again: bool) -> _World:
    paths = {kind: _path(kind, name, seed, sets) for kind in _KINDS}
    missing = [kind for kind, path in paths.items() if again or not path.exists()]
    if missing:
        world = worlds.drawn(worlds.SOURCES[name], seed, sets=sets)
        [trained] = worlds.trained([world], _SPLITS)
        worlds.CACHE.mkdir(parents=True, exist_ok=True)
        for done, kind in enumerate(missing):
            tell((1 + done) / (1 + len(missing)))
            files.write_json(paths[kind], {**_KINDS[kind](trained), "code": parts.code()})
    whole, small, covered = stored = [files.read_json(paths[kind]) for kind in _KINDS]
    # Worlds that were judged before this was noted do not say by which code.
    code = [one.pop("code", {}) for one in stored]
    counts = Counts.from_json(whole).merged(Counts.from_json(small))
    return _World(counts, Counter(covered), code)


#: What is measured in a world, each kept in a file.
_KINDS: dict[str, Callable[[Trained], dict[str, Any]]] = {
    "whole": lambda t: table.whole(
        t, honest=min(len(t.retrained), _HONEST), attacked=_ATTACKED
    ).to_json(),
    "small": lambda t: table.small(t, sets=_SMALL).to_json(),
    "covered": lambda t: dict(table.coverage(t)),
}


def _path(kind: str, name: str, seed: int, sets: int) -> Path:
    return worlds.CACHE / f"{kind}-{name}-{seed}-{sets}.json"


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counters:
        total.update(one)
    return total


if __name__ == "__main__":
    main()
