"""What deletions leave of forgotten texts, beside models retrained without them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import results
from benchmarks.memorised.measures import auc
from benchmarks.methods import files
from benchmarks.parts import Found
from benchmarks.progress import Tell
from benchmarks.results import Target
from benchmarks.text import banking
from benchmarks.text.problems import Problem
from unlearning.anchored import anchor as anchors
from unlearning.anchored import margins, preparation, targets
from unlearning.anchored.anchor import Anchor
from unlearning.anchored.margins import Splits
from unlearning.anchored.preparation import Preparation
from unlearning.anchored.targets import BatchMargins, Targets
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.methods import Context, iau

STEPS = ("calibrated", "matched")


@dataclass(frozen=True)
class Line:
    """One model on one set of rows; accuracies are shares, of the labels as they were given.

    ``true_accuracy`` is that by the source's labels. ``calibrated_auc``: P(the margin of a
    forgotten row minus its mean margin in the retrained models > the same of a test row); of a
    retrained model the others are the references. ``retrain_over_update`` compares CPU seconds.
    """

    rows: str
    model: str
    forget_accuracy: float
    true_accuracy: float
    test_accuracy: float
    calibrated_auc: float | None
    cpu_seconds: float
    retrain_over_update: float | None = None


@dataclass(frozen=True)
class Trained:
    """A trained model and the CPU seconds of its training."""

    model: nn.Module
    cpu_seconds: float


def measure(problem: Problem, *, retrained: int, splits: Splits, tell: Tell) -> Found:
    """Train, forget each set by both steps, and compare; what is trained is kept."""
    kept = banking.CACHE / f"{problem.name}-{_key(problem, splits)}"
    kept.mkdir(parents=True, exist_ok=True)
    tell(0.0, "training the base")
    base = _trained(kept / "base", problem, problem.train, seed=0)
    theirs: dict[str, list[Trained]] = {}
    for number, (name, rows) in enumerate(problem.sets.items()):
        retain = _split(problem, rows)[1]
        theirs[name] = []
        for seed in range(1, retrained + 1):
            tell(0.1 + 0.2 * number + 0.2 * (seed - 1) / retrained, f"{name}: retraining")
            path = kept / f"{name}-retrained-{seed}"
            theirs[name].append(_trained(path, problem, retain, seed=seed))
    tell(0.5, "out-of-fold margins")
    found, margin_seconds = _targets(kept / "margins.safetensors", problem, base.model, splits)
    tell(0.8, "preparation")
    anchor, prepare_seconds = _prepared(kept / "anchor", problem, base.model)
    lines, notes = [], {}
    for name, rows in problem.sets.items():
        tell(0.85, f"{name}: updates")
        lines.append(_line(problem, name, "do nothing", base, theirs[name]))
        for step in STEPS:
            updated, notes[f"{name} {step}"] = _updated(problem, base, rows, step, anchor, found)
            lines.append(_line(problem, name, step, updated, theirs[name]))
        lines += [
            _line(problem, name, "retrained", one, [o for o in theirs[name] if o is not one])
            for one in theirs[name]
        ]
    measured = {
        "rows": len(problem.train),
        "epochs": problem.recipe.epochs,
        "parameters": objective.flatten(base.model).numel(),
        "base_cpu_seconds": base.cpu_seconds,
        "margins_cpu_seconds": margin_seconds,
        "prepare_cpu_seconds": prepare_seconds,
        "lines": [asdict(line) for line in lines],
        "notes": notes,
    }
    show(problem.name, lines)
    return measured, wanted(lines)


def wanted(lines: Sequence[Line]) -> list[Target]:
    """Return what the matched step is to reach on the mislabelled rows."""
    own = [line for line in lines if line.rows == "mislabelled"]
    base, ours = (
        next(line for line in own if line.model == name) for name in ("do nothing", "matched")
    )
    theirs = [line for line in own if line.model == "retrained"]
    forget = mean([line.forget_accuracy for line in theirs])
    known = [line.calibrated_auc for line in theirs if line.calibrated_auc is not None]
    assert ours.calibrated_auc is not None
    assert ours.retrain_over_update is not None
    return [
        results.at_most(
            "mislabelled rows: forget accuracy from retrained in points",
            100 * abs(ours.forget_accuracy - forget),
            5.0,
        ),
        results.at_most(
            "mislabelled rows: calibrated AUC from retrained",
            abs(ours.calibrated_auc - (mean(known) if known else 0.5)),
            0.03,
        ),
        results.at_most(
            "mislabelled rows: test accuracy in points under the base's",
            100 * (base.test_accuracy - ours.test_accuracy),
            1.0,
        ),
        results.at_least("mislabelled rows: retrain / update", ours.retrain_over_update, 50.0),
    ]


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def show(title: str, lines: Sequence[Line]) -> None:
    """Print the lines of a part."""
    columns = (
        "rows", "model", "forget", "by true label", "test", "calibrated AUC", "CPU seconds",
        "retrain / update",
    )  # fmt: skip
    cells = [
        tuple("" if value is None else value for value in asdict(line).values()) for line in lines
    ]
    results.show(title, columns, cells)


def _key(problem: Problem, splits: Splits) -> str:
    """Return a word that the rows, the network and how it is trained decide."""
    told = hashlib.sha256(repr((problem.recipe, problem.fresh(0), splits)).encode())
    for tensor in (problem.train.x[:], problem.train.labels, *problem.sets.values()):
        told.update(tensor.numpy().tobytes())
    return told.hexdigest()[:12]


def _split(problem: Problem, rows: Tensor) -> tuple[Examples, Examples]:
    left = torch.ones(len(problem.train), dtype=torch.bool)
    left[rows] = False
    return problem.train.subset(rows), problem.train.subset(left.nonzero()[:, 0])


def _trained(path: Path, problem: Problem, rows: Examples, *, seed: int) -> Trained:
    """Train a model, or return the one that was kept."""
    model = problem.fresh(seed)
    weights, told = path.with_suffix(".safetensors"), path.with_suffix(".json")
    if not told.exists():
        with files.timed() as watch:
            training.fit(
                model,
                rows,
                problem.validation,
                recipe=problem.recipe,
                generator=torch.Generator().manual_seed(seed),
            )
        files.write_tensors(weights, model.state_dict())
        files.write_json(told, {"cpu_seconds": watch.cpu_seconds})
    model.load_state_dict(files.read_tensors(weights))
    return Trained(model.eval(), files.read_json(told)["cpu_seconds"])


def _prepared(path: Path, problem: Problem, model: nn.Module) -> tuple[Anchor, float]:
    """Prepare the anchor, or return the one that was kept, and the CPU seconds that it took."""
    tensors, told = path.with_suffix(".safetensors"), path.with_suffix(".json")
    if not told.exists():
        with files.timed() as watch:
            made = preparation.prepare(
                model,
                problem.train,
                problem.validation,
                options=Preparation(law_repeats=0),
                generator=torch.Generator().manual_seed(0),
            )
        files.write_tensors(tensors, made.to_tensors())
        files.write_json(told, {"cpu_seconds": watch.cpu_seconds})
    return anchors.from_tensors(files.read_tensors(tensors)), files.read_json(told)["cpu_seconds"]


def _targets(
    path: Path, problem: Problem, model: nn.Module, splits: Splits
) -> tuple[Targets, float | None]:
    """Return the targets of all rows, and the CPU seconds unless margins were kept."""
    done = margins.from_tensors(files.read_tensors(path)) if path.exists() else None
    with files.timed() as watch:
        out = margins.prepare(
            problem.fresh,
            problem.train,
            problem.validation,
            trainer=margins.by_recipe(problem.recipe, problem.validation),
            options=splits,
            seed=1,
            done=done,
            kept=lambda state: files.write_tensors(path, state.to_tensors()),
        )
    found = targets.fit(
        out,
        own=margins.of_examples(model, problem.train),
        held_out=margins.of_examples(model, problem.validation),
    )
    return found, None if done is not None else watch.cpu_seconds


def _updated(
    problem: Problem, base: Trained, rows: Tensor, step: Any, anchor: Anchor, found: Targets
) -> tuple[Trained, dict[str, Any]]:
    forget, retain = _split(problem, rows)
    known = BatchMargins(found.of(rows)) if step == "matched" else None
    with files.timed() as watch:
        update = iau.unlearn(
            base.model,
            forget,
            retain,
            options=iau.Options(step=step),
            context=Context(calibration=problem.validation, anchor=anchor, margins=known),
            generator=torch.Generator().manual_seed(2),
        )
    said = {"notes": dict(update.notes), "retrain_because": list(update.retrain_because)}
    return Trained(update.model, watch.cpu_seconds), said


def _line(
    problem: Problem, name: str, model: str, one: Trained, references: Sequence[Trained]
) -> Line:
    rows = problem.sets[name]
    forget, _ = _split(problem, rows)
    truly = Examples(forget.x[forget.positions], problem.true[rows])
    ours, test = (margins.of_examples(one.model, e) for e in (forget, problem.test))
    calibrated = None
    if references:
        known = [
            torch.stack([margins.of_examples(o.model, e) for o in references]).mean(0)
            for e in (forget, problem.test)
        ]
        calibrated = auc(ours - known[0], test - known[1])
    accuracies = [
        float(objective.correct(one.model, e).double().mean())
        for e in (forget, truly, problem.test)
    ]
    ratio = mean([o.cpu_seconds for o in references]) / one.cpu_seconds if model in STEPS else None
    return Line(
        rows=name,
        model=model,
        forget_accuracy=accuracies[0],
        true_accuracy=accuracies[1],
        test_accuracy=accuracies[2],
        calibrated_auc=calibrated,
        cpu_seconds=one.cpu_seconds,
        retrain_over_update=ratio,
    )
