"""Audit the auditor: attacks must not pass, honest retrains must not fail.

    python -m benchmarks.auditor [--quick] [--worlds 20] [--data ../shared/data]

Worlds are drawn from two data sets; of each a base that knows its rows, models for margins, and
retrains without ten sets of rows. Trained networks and finished worlds lie in
``benchmarks/cache/auditor``: a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import results
from benchmarks.auditor import report, table, worlds
from benchmarks.auditor.table import Counts
from benchmarks.methods import files
from unlearning.anchored.margins import Splits

#: Worlds of each data set, and sets of rows to forget of each.
_WORLDS, _SETS, _QUICK_WORLDS, _QUICK_SETS = 20, 10, 2, 2
#: Of the sets of each world, for how many the honest retrain is judged (200 of both data sets), and
#: how many are attacked, and cut into small batches.
_HONEST, _ATTACKED, _SMALL = 5, 1, 1
_SPLITS = Splits(2, 2)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two worlds of each data set")
    parser.add_argument("--worlds", type=int, help=f"of each data set, {_WORLDS} unless quick")
    parser.add_argument("--sources", nargs="*", default=["digits", "cifar"], help="data sets")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument("--again", action="store_true", help="judge anew what was judged before")
    asked = parser.parse_args()
    worlds.DATA = asked.data
    count = asked.worlds or (_QUICK_WORLDS if asked.quick else _WORLDS)
    sets = _QUICK_SETS if asked.quick else _SETS
    found = {
        name: table.add_up(_measured(name, seed, sets, again=asked.again) for seed in range(count))
        for name in asked.sources
    }
    name = "auditor-quick" if asked.quick else "auditor"
    command = f"python -m benchmarks.auditor {'--quick' if asked.quick else f'--worlds {count}'}"
    path = report.write(name, found, command=command, worlds=count, sets=sets)
    results.console.print(f"Report: {path}")


def _measured(name: str, seed: int, sets: int, *, again: bool) -> Counts:
    path = worlds.CACHE / f"judged-{name}-{seed}-{sets}.json"
    if again or not path.exists():
        world = worlds.drawn(worlds.SOURCES[name], seed, sets=sets)
        [trained] = worlds.trained([world], _SPLITS)
        counts = table.measure(trained, honest=min(sets, _HONEST), attacked=_ATTACKED, small=_SMALL)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, counts.to_json())
        results.console.print(f"{name} {seed}: judged")
    return Counts.from_json(files.read_json(path))


if __name__ == "__main__":
    main()
