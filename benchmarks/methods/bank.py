"""The models that everything is compared with: the base, its anchor, and the references.

Each is trained once and kept in a folder named by what it was made from; a run that was cut short
goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.methods import files
from benchmarks.methods.problem import Problem
from benchmarks.methods.settings import BASELINE, Settings
from unlearning import methods
from unlearning.anchored import anchor as anchors
from unlearning.anchored import preparation
from unlearning.anchored.anchor import Anchor
from unlearning.architectures import Classifier
from unlearning.core import objective, options, training, update_log
from unlearning.core.update_log import UpdateLog
from unlearning.methods import Context

Progress = Callable[[float], None]

#: References start from seeds of their own, far from the base's 0.
_FIRST_REFERENCE = 100


@dataclass(frozen=True)
class Trained:
    """A model and what it cost."""

    name: str
    model: Classifier
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Bank:
    """What every method starts from and is compared with."""

    folder: Path
    base: Trained
    references: tuple[Trained, ...]
    anchor: Anchor
    #: What preparing the anchor cost, once, at publish.
    anchor_cost: files.Stopwatch

    def log(self) -> UpdateLog:
        """The log of the base's training updates: large, so read only where it is needed."""
        return update_log.from_tensors(files.read_tensors(_log_path(self.folder)))


def fill(
    problem: Problem, settings: Settings, folder: Path, step: Callable[[str], Progress]
) -> Bank:
    """Train what is not there yet. ``step`` announces a piece of work and takes its progress."""
    folder.mkdir(parents=True, exist_ok=True)
    base = _base(problem, settings, folder, step("Training the base model"))
    anchor, cost = _anchor(base.model, problem, folder, step("Preparing the anchor"))
    references = tuple(
        _reference(k, base, problem, settings, folder, step(f"Retraining, seed {k + 1}"))
        for k in range(settings.references)
    )
    return Bank(folder, base, references, anchor, cost)


def _base(problem: Problem, settings: Settings, folder: Path, progress: Progress) -> Trained:
    model = problem.fresh(0)
    log = UpdateLog(max_bytes=settings.log_megabytes * 2**20)

    def train() -> Classifier:
        training.fit(
            model,
            problem.data.train,
            problem.data.validation,
            recipe=settings.recipe,
            generator=torch.Generator().manual_seed(0),
            progress=progress,
            log=log,
        )
        objective.recalibrate_batch_norm(model, problem.data.train)
        return model

    def keep_log() -> None:
        files.write_tensors(_log_path(folder), log.to_tensors())

    return _kept("base", folder, problem, train, also=keep_log)


def _reference(
    k: int, base: Trained, problem: Problem, settings: Settings, folder: Path, progress: Progress
) -> Trained:
    seed = _FIRST_REFERENCE + k
    method = methods.get(BASELINE)
    context = Context(
        kind=settings.kind,
        calibration=problem.data.validation,
        fresh=lambda: problem.fresh(seed),
        recipe=settings.recipe,
        progress=progress,
    )

    def train() -> Classifier:
        update = method.unlearn(
            base.model,
            problem.forget,
            problem.retain,
            options=options.parse(method.options, {}),
            context=context,
            generator=torch.Generator().manual_seed(seed),
        )
        assert isinstance(update.model, Classifier)
        return update.model

    return _kept(f"reference-{k + 1}", folder, problem, train)


def _anchor(
    model: Classifier, problem: Problem, folder: Path, progress: Progress
) -> tuple[Anchor, files.Stopwatch]:
    weights, costs = folder / "anchor.safetensors", folder / "anchor.json"
    if not costs.exists():
        with files.timed() as watch:
            anchor = preparation.prepare(
                model,
                problem.data.train,
                problem.data.validation,
                generator=torch.Generator().manual_seed(0),
                progress=progress,
            )
        files.write_tensors(weights, anchor.to_tensors())
        files.write_json(costs, vars(watch))
    # Read back even when just made, so that a resumed run starts from the same numbers.
    anchor = anchors.from_tensors(files.read_tensors(weights))
    return anchor, files.Stopwatch(**files.read_json(costs))


def _kept(
    name: str,
    folder: Path,
    problem: Problem,
    train: Callable[[], Classifier],
    *,
    also: Callable[[], None] = lambda: None,
) -> Trained:
    """What is in the folder, or what ``train`` gives; its costs are written last, as the proof."""
    weights, costs = folder / f"{name}.safetensors", folder / f"{name}.json"
    if not costs.exists():
        with files.timed() as watch:
            model = train()
        files.write_model(weights, model)
        also()
        files.write_json(costs, vars(watch))
    model = files.read_model(weights, problem.fresh(0))
    return Trained(name, model, **files.read_json(costs))


def _log_path(folder: Path) -> Path:
    return folder / "update-log.safetensors"
