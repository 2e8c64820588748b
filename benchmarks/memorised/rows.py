"""The margins of single rows under one base, its updates and one retrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import parts, results
from benchmarks.memorised import models, updates
from benchmarks.memorised.problems import Problem
from benchmarks.methods import files
from unlearning.anchored import margins, targets
from unlearning.anchored.margins import Splits
from unlearning.core.examples import Examples

#: Retained rows that are kept beside the forgotten ones, at most.
RETAINED = 200
#: Digits that are kept: a margin is read off a picture.
_DECIMALS = 2


@dataclass(frozen=True)
class Margins:
    """Margins of rows, in one order.

    ``out_of_fold``: mean over the splits, on the base's scale; ``retrained``: without the rows to
    forget.
    """

    out_of_fold: list[float]
    before: list[float]
    calibrated: list[float]
    matched: list[float]
    retrained: list[float]


@dataclass(frozen=True)
class Rows:
    """What is kept of a problem, of the base and the retrained model with the first seed."""

    title: str
    forgotten: Margins
    retained: Margins


def measure(problem: Problem, splits: Splits) -> Rows:
    """Update the first base and return the margins of its rows."""
    (base,) = models.bases(problem.data, 1, splits)
    (retrained,) = models.retrained(problem, 1)
    prepared = updates.anchor(base, problem)
    shown = {
        "before": base.model,
        "calibrated": updates.calibrated(base, problem, prepared),
        "matched": updates.matched(base, problem, prepared),
        "retrained": retrained,
    }
    held_out = margins.of_examples(base.model, problem.data.validation)
    out_of_fold = targets.calibrate(base.out, held_out).mean(0)

    def of(rows: Tensor) -> Margins:
        return _margins(shown, problem.data.train.subset(rows), out_of_fold[rows])

    return Rows(problem.title, of(problem.rows), of(_sample(problem)))


def keep(name: str, found: Mapping[str, Rows]) -> Path:
    """Put the rows of problems into ``results/NAME.json``; return its path."""
    path = results.FOLDER / f"{name}.json"
    stored = files.read_json(path) if path.exists() else {"problems": {}}
    new = {problem: {"code": parts.code(), **asdict(rows)} for problem, rows in found.items()}
    results.FOLDER.mkdir(exist_ok=True)
    files.write_line(path, {"problems": {**stored["problems"], **new}})
    return path


def read(name: str) -> dict[str, Rows]:
    """Return the rows of every problem in ``results/NAME.json``."""
    stored = files.read_json(results.FOLDER / f"{name}.json")["problems"]
    return {problem: _rows(one) for problem, one in stored.items()}


def _rows(stored: Mapping[str, Any]) -> Rows:
    return Rows(stored["title"], Margins(**stored["forgotten"]), Margins(**stored["retained"]))


def _sample(problem: Problem) -> Tensor:
    kept = torch.ones(len(problem.data.train), dtype=torch.bool)
    kept[problem.rows] = False
    rows = kept.nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows[order[:RETAINED]]


def _margins(shown: Mapping[str, nn.Module], rows: Examples, out_of_fold: Tensor) -> Margins:
    found = {name: margins.of_examples(model, rows) for name, model in shown.items()}
    return Margins(
        **{
            name: [round(value, _DECIMALS) for value in values.tolist()]
            for name, values in ({"out_of_fold": out_of_fold} | found).items()
        }
    )
