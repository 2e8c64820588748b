"""Running one method on the base model; a finished run is kept and not repeated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import parts
from benchmarks.methods import files
from benchmarks.methods.bank import Bank, Progress
from benchmarks.methods.problem import Problem
from benchmarks.methods.settings import DEFAULT, Entry, Settings
from unlearning import methods, verification
from unlearning.architectures import Classifier
from unlearning.core import options
from unlearning.errors import UnlearningError
from unlearning.methods import Context, Update
from unlearning.verification import ModelScores


@dataclass(frozen=True)
class Run:
    """One method in one setting, finished; ``scores`` is None where it gave no model."""

    entry: Entry
    seconds: float
    cpu_seconds: float
    threads: int
    notes: dict[str, Any]
    retrain_because: tuple[str, ...]
    #: Why the method gave no model; None when it did.
    refused: str | None
    scores: ModelScores | None
    #: The code that it was run with; None of runs that are older than this note.
    code: dict[str, str] | None


def finished(entry: Entry, folder: Path) -> Run | None:
    """The run, if it was finished before."""
    path = _path(entry, folder)
    if not path.exists():
        return None
    stored = files.read_json(path)
    scores = path.with_suffix(".npz")
    return Run(
        entry=entry,
        seconds=stored["seconds"],
        cpu_seconds=stored["cpu_seconds"],
        threads=stored["threads"],
        notes=stored["notes"],
        retrain_because=tuple(stored["retrain_because"]),
        refused=stored["refused"],
        scores=None if stored["refused"] else ModelScores.from_arrays(files.read_arrays(scores)),
        code=stored.get("code"),
    )


def run(entry: Entry, bank: Bank, problem: Problem, settings: Settings, progress: Progress) -> Run:
    """Run the method, score its model, and keep both."""
    path = _path(entry, bank.folder)
    path.parent.mkdir(exist_ok=True)
    method = methods.get(entry.method)
    context = _context(entry, bank, problem, settings, progress)
    update, refused = None, None
    with files.timed() as watch:
        try:
            update = method.unlearn(
                bank.base.model,
                problem.forget,
                problem.retain,
                options=options.parse(method.options, entry.options),
                context=context,
                generator=torch.Generator().manual_seed(0),
            )
        except UnlearningError as error:
            refused = str(error)
    if update is not None:
        scores = score(update.model, problem)
        refused = _unusable(update.model, scores)
        if refused is None:
            files.write_model(path.with_suffix(".safetensors"), update.model)
            files.write_arrays(path.with_suffix(".npz"), scores.to_arrays())
    files.write_json(path, _stored(entry, watch, update, refused))
    done = finished(entry, bank.folder)
    assert done is not None
    return done


def forget_finished(entry: Entry, folder: Path) -> None:
    """Drop a finished run, so that it is run again."""
    _path(entry, folder).unlink(missing_ok=True)


def model(done: Run, bank: Bank, problem: Problem) -> Classifier:
    """The model that a finished run gave."""
    path = _path(done.entry, bank.folder).with_suffix(".safetensors")
    return files.read_model(path, problem.fresh(0))


def score(network: nn.Module, problem: Problem) -> ModelScores:
    """The model on the rows to forget, on never-seen rows and on retained ones."""

    def on(examples: Any, *, keep: bool) -> verification.Scores:
        return verification.score(network, examples, keep_probabilities=keep)

    return ModelScores(
        forget=on(problem.forget, keep=True),
        audit=on(problem.data.test, keep=True),
        retain=on(problem.retain_sample, keep=False),
    )


def trained_scores(bank: Bank, problem: Problem) -> tuple[ModelScores, list[ModelScores]]:
    """Scores of the base and of each reference, kept too."""

    def of(name: str, compute: Callable[[], ModelScores]) -> ModelScores:
        path = bank.folder / f"{name}.npz"
        if not path.exists():
            files.write_arrays(path, compute().to_arrays())
        return ModelScores.from_arrays(files.read_arrays(path))

    def scored(trained: Any) -> ModelScores:
        return of(trained.name, lambda: score(trained.model, problem))

    return scored(bank.base), [scored(reference) for reference in bank.references]


def _context(
    entry: Entry, bank: Bank, problem: Problem, settings: Settings, progress: Progress
) -> Context:
    return Context(
        kind=settings.kind,
        calibration=problem.data.validation,
        # The service prepares the anchor at publish; only the default method uses it.
        anchor=bank.anchor if entry.method == DEFAULT else None,
        fresh=lambda: problem.fresh(0),
        recipe=settings.recipe,
        update_log=bank.log() if entry.method == "amnesiac" else None,
        progress=progress,
    )


def _unusable(network: nn.Module, scores: ModelScores) -> str | None:
    """Why the service would not take this model; scores alone make an even match of NaN weights."""
    if not all(bool(t.isfinite().all()) for t in network.state_dict().values()):
        return "the updated weights are not finite"
    if not all(one.finite for one in scores.sets().values()):
        return "some of the updated model's losses are not finite"
    return None


def _stored(
    entry: Entry, watch: files.Stopwatch, update: Update | None, refused: str | None
) -> dict[str, Any]:
    return {
        "entry": dataclasses.asdict(entry),
        **vars(watch),
        "threads": torch.get_num_threads(),
        "notes": dict(update.notes) if update else {},
        "retrain_because": list(update.retrain_because) if update else [],
        "refused": refused,
        "code": parts.code(),
    }


def _path(entry: Entry, folder: Path) -> Path:
    digest = hashlib.sha256(json.dumps(entry.options, sort_keys=True).encode()).hexdigest()[:8]
    return folder / "runs" / f"{entry.name}-{digest}.json"
