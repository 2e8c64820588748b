"""The trained models of a problem, kept on disk so that a run can go on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from benchmarks import cifar
from benchmarks.memorised import problems, stacked
from benchmarks.memorised.problems import Data, Problem
from benchmarks.methods import files
from unlearning.anchored import margins
from unlearning.anchored.margins import OutOfFold, Splits

CACHE = cifar.CACHE / "memorised"


@dataclass(frozen=True)
class Base:
    """A model trained on all rows, and the margins of its rows under models that did not see them.

    ``out`` is this model's own: other seeds have other ones, as other installations would.
    """

    model: nn.Module
    out: OutOfFold


def bases(data: Data, count: int, splits: Splits) -> list[Base]:
    """Return the models of seeds 0 to ``count`` − 1, trained or from the disk."""
    models = _models(data, "base", range(count), lambda seeds: problems.trained(data.train, seeds))
    name = f"margins-{splits.splits}x{splits.folds}"
    outs = _kept(
        data,
        name,
        range(10_000, 10_000 + count),
        lambda seeds: [o.to_tensors() for o in problems.out_of_fold(data, splits, seeds)],
    )
    return [Base(m, margins.from_tensors(o)) for m, o in zip(models, outs, strict=True)]


def retrained(problem: Problem, count: int) -> list[nn.Module]:
    """Return models trained without the rows to forget, of seeds that no base has."""
    return _models(
        problem.data,
        f"{problem.name}-retrained",
        range(5_000, 5_000 + count),
        lambda seeds: problems.trained(problem.retain, seeds),
    )


def _models(
    data: Data,
    name: str,
    seeds: Sequence[int],
    train: Callable[[Sequence[int]], Sequence[nn.Module]],
) -> list[nn.Module]:
    found: list[nn.Module] = []
    states = _kept(data, name, seeds, lambda s: [dict(m.state_dict()) for m in train(s)])
    for state in states:
        model = problems.fresh(0)
        model.load_state_dict(state)
        found.append(model.eval())
    return found


def _kept(
    data: Data,
    name: str,
    seeds: Sequence[int],
    make: Callable[[Sequence[int]], list[dict[str, Tensor]]],
) -> list[dict[str, Tensor]]:
    """Return the tensors of each seed; those that are not on the disk are made together."""
    folder = CACHE / _key(data)
    paths = {seed: folder / f"{name}-{seed}.safetensors" for seed in seeds}
    if missing := [seed for seed, path in paths.items() if not path.exists()]:
        folder.mkdir(parents=True, exist_ok=True)
        for seed, tensors in zip(missing, make(missing), strict=True):
            files.write_tensors(paths[seed], tensors)
    return [files.read_tensors(path) for path in paths.values()]


def _key(data: Data) -> str:
    """Return a folder's name that rows, labels, subjects and the recipe decide."""
    told = hashlib.sha256()
    train, validation = data.train, data.validation
    for tensor in (train.x[:], train.y, data.groups, validation.x[:], validation.y):
        told.update(tensor.numpy().tobytes())
    told.update(repr((stacked.EPOCHS, stacked.BATCH, stacked.LEARNING_RATE)).encode())
    return f"{data.name}-{told.hexdigest()[:12]}"
