"""Audit the auditor: attacks must not pass, honest retrains must not fail.

    python -m benchmarks.auditor [--quick] [--worlds 20] [--data ../shared/data] [--only digits]

Worlds are drawn from two data sets; of each a base that knows its rows, models for margins, and
retrains without five sets of rows. Trained networks, their scores and the verdicts on them lie in
``benchmarks/cache/auditor``: a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import parts, results
from benchmarks.auditor import report, scoring, table, worlds
from benchmarks.auditor.report import Measured
from benchmarks.auditor.table import Counts
from benchmarks.methods import files
from benchmarks.progress import Steps, Tell
from unlearning.anchored.margins import Splits

#: Worlds of each data set, and sets of rows to forget of each, of which the honest retrains are
#: judged.
_WORLDS, _SETS, _QUICK_WORLDS, _QUICK_SETS = 20, 5, 2, 2
#: Of the sets of each world, how many are attacked, and cut into small batches.
_ATTACKED, _SMALL = 1, 1
_SPLITS = Splits(2, 2)
_SOURCES = ("digits", "cifar")
#: Shares of a world's time after which its networks are trained, and scored.
_TRAINED, _SCORED = 0.3, 0.85


@dataclass(frozen=True)
class _World:
    """One world of a data set; its files lie in ``worlds.CACHE``."""

    name: str
    seed: int
    sets: int

    @property
    def scores(self) -> Path:
        """Return where its networks' scores are kept."""
        return worlds.CACHE / f"scores-{self.name}-{self.seed}-{self.sets}.json"

    @property
    def verdicts(self) -> Path:
        """Return where the verdicts on them are kept."""
        return worlds.CACHE / f"verdicts-{self.name}-{self.seed}-{self.sets}.json"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two worlds of each data set")
    parser.add_argument("--worlds", type=int, help=f"of each data set, {_WORLDS} unless quick")
    parser.add_argument("--only", nargs="*", help="data sets; judged and kept, not reported")
    parser.add_argument("--unfinished", action="store_true", help="report what is judged so far")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument(
        "--again", action="store_true", help="judge the kept scores anew, by the present gates"
    )
    parser.add_argument(
        "--rescore", action="store_true", help="score the trained networks anew, then judge"
    )
    asked = parser.parse_args()
    worlds.DATA = asked.data
    count = asked.worlds or (_QUICK_WORLDS if asked.quick else _WORLDS)
    sets = _QUICK_SETS if asked.quick else _SETS
    every = [_World(name, seed, sets) for seed in range(count) for name in asked.only or _SOURCES]
    if asked.unfinished:
        every = [world for world in every if world.verdicts.exists()]
    measured: dict[str, list[dict[str, Any]]] = {}
    # The data sets take turns, so that a run that is cut short has about as many worlds of each.
    with Steps([1.0] * len(every)) as steps:
        for world in every:
            tell = steps.begin(f"{world.name}, world {world.seed + 1} of {count}")
            found = _measured(world, tell, again=asked.again, rescore=asked.rescore)
            measured.setdefault(world.name, []).append(found)
        steps.end()
    if asked.only is not None:
        return
    name = "auditor-quick" if asked.quick else "auditor"
    command = f"python -m benchmarks.auditor {'--quick' if asked.quick else f'--worlds {count}'}"
    command += " --unfinished" if asked.unfinished else ""
    path = report.write(name, {k: _together(v) for k, v in measured.items()}, command=command)
    results.console.print(f"Report: {path}")


def _measured(world: _World, tell: Tell, *, again: bool, rescore: bool) -> dict[str, Any]:
    """Train, score and judge what is not kept yet; return the verdicts."""
    worlds.CACHE.mkdir(parents=True, exist_ok=True)
    if rescore or not world.scores.exists():
        tell(0.0, "training")
        drawn = worlds.drawn(worlds.SOURCES[world.name], world.seed, sets=world.sets)
        [trained] = worlds.trained([drawn], _SPLITS)
        tell(_TRAINED, "scoring")
        found = scoring.scored(
            trained,
            attacked=_ATTACKED,
            small=_SMALL,
            tell=lambda share: tell(_TRAINED + (_SCORED - _TRAINED) * share),
        )
        scoring.keep(world.scores, found)
        again = True
    if again or not world.verdicts.exists():
        tell(_SCORED, "judging")
        scored = scoring.kept(world.scores)
        counts = table.count(scored, tell=lambda share: tell(_SCORED + (1 - _SCORED) * share))
        code = {"scored": scored.code, "judged": parts.code()}
        files.write_json(world.verdicts, {"counts": counts.to_json(), "code": code})
    return files.read_json(world.verdicts)


def _together(found: list[dict[str, Any]]) -> Measured:
    """Add the verdicts on all worlds of a data set up."""
    versions = {
        name: parts.distinct(one["code"][name] for one in found) for name in ("scored", "judged")
    }
    counts = table.add_up(Counts.from_json(one["counts"]) for one in found)
    return Measured(len(found), counts, versions)


if __name__ == "__main__":
    main()
