"""The problems: scikit-learn's digits, 1,000 training rows, an MLP that fits them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.memorised import stacked
from unlearning import architectures
from unlearning.anchored import margins
from unlearning.anchored.margins import OutOfFold, Splits
from unlearning.architectures import Classifier, Transform
from unlearning.core.examples import Examples

TRAIN, VALIDATION = 1000, 250
#: Models whose mean margin says which rows are hard.
_JUDGES = 4


@dataclass(frozen=True)
class Data:
    """One set of training rows, with never-seen ones; ``true`` (n,) the labels before any flip."""

    name: str
    train: Examples
    true: Tensor
    groups: Tensor
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Problem:
    """Rows of ``data`` to forget, (f,) int64."""

    name: str
    title: str
    data: Data
    rows: Tensor

    @property
    def forget(self) -> Examples:
        """The rows to forget, with the labels that the network was given."""
        return self.data.train.subset(self.rows)

    @property
    def forget_true(self) -> Examples:
        """The same with their true labels."""
        return Examples(self.data.train.x[self.rows], self.data.true[self.rows])

    @property
    def retain(self) -> Examples:
        """The other training rows."""
        kept = torch.ones(len(self.data.train), dtype=torch.bool)
        kept[self.rows] = False
        return self.data.train.subset(kept.nonzero()[:, 0])


def generator(seed: int) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def fresh(seed: int) -> Classifier:
    """Return the untrained network, 64-256-128-10."""
    return architectures.classifier(
        "mlp",
        {"inputs": 64, "hidden": (256, 128), "classes": 10},
        Transform(scale=1 / 16, mean=(0.3,), std=(0.4,)),
        generator=generator(seed),
    )


def trained(rows: Examples, seeds: Sequence[int]) -> list[Classifier]:
    """Return networks trained on ``rows``, one for each seed."""
    models = [fresh(seed) for seed in seeds]
    stacked.fit([(m, rows, generator(seed)) for m, seed in zip(models, seeds, strict=True)])
    return models


def out_of_fold(data: Data, splits: Splits, seeds: Sequence[int]) -> list[OutOfFold]:
    """Return out-of-fold margins by ``margins.prepare``, once for each seed.

    It is asked twice: first to learn what it would train, so that all can be trained at once, then
    with the trained networks.
    """
    asked: list[tuple[Classifier, Examples, torch.Generator]] = []

    def note(
        model: nn.Module, rows: Examples, seeded: torch.Generator, _: Callable[[float], None]
    ) -> int:
        assert isinstance(model, Classifier)
        asked.append((model, rows, seeded))
        return stacked.EPOCHS

    def ask(trainer: margins.Trainer) -> list[OutOfFold]:
        return [
            margins.prepare(
                fresh,
                data.train,
                data.validation,
                trainer=trainer,
                groups=data.groups,
                options=splits,
                seed=seed,
            )
            for seed in seeds
        ]

    ask(note)
    stacked.fit(asked)
    ready = iter(asked)

    def recall(
        model: nn.Module, _rows: Examples, _: torch.Generator, __: Callable[[float], None]
    ) -> int:
        model.load_state_dict(next(ready)[0].state_dict())
        model.eval()
        return stacked.EPOCHS

    return ask(recall)


def all_problems() -> list[Problem]:
    """Return the problems, the same ones each time."""
    clean = _clean()
    near, near_rows = _near_copies(clean)
    noisy, _ = _flipped(clean, "noise", TRAIN // 5)
    few, few_rows = _flipped(clean, "flipped-2", TRAIN // 50)
    more, more_rows = _flipped(clean, "flipped-4", TRAIN // 25)
    drawn = torch.randperm(TRAIN, generator=generator(8))
    return [
        Problem("flipped-2", "20 rows with flipped labels (2 %)", few, few_rows),
        Problem("flipped-4", "40 rows with flipped labels (4 %)", more, more_rows),
        Problem("near-copies", "one subject, 40 near-copies of a hard image", near, near_rows),
        Problem("hardest", "the 30 hardest rows", clean, _hardest(clean, 30)),
        Problem("random", "50 random clean rows", clean, drawn[:50]),
        Problem("noise", "100 random rows, 20 % of all labels wrong", noisy, drawn[:100]),
    ]


def _clean() -> Data:
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(y), generator=generator(0))
    x, y = x[order], y[order]
    held = TRAIN + VALIDATION
    return Data(
        "clean",
        Examples(x[:TRAIN], y[:TRAIN]),
        y[:TRAIN],
        torch.arange(TRAIN),
        Examples(x[TRAIN:held], y[TRAIN:held]),
        Examples(x[held:], y[held:]),
    )


def _flipped(clean: Data, name: str, count: int) -> tuple[Data, Tensor]:
    """Return the data with ``count`` wrong labels, and which rows have them."""
    seeded = generator(7)
    rows = torch.randperm(TRAIN, generator=seeded)[:count]
    y = clean.train.y.clone()
    y[rows] = (y[rows] + torch.randint(1, 10, (count,), generator=seeded)) % 10
    return replace(clean, name=name, train=Examples(clean.train.x, y)), rows


def _near_copies(clean: Data) -> tuple[Data, Tensor]:
    """Put 40 noisy copies of the hardest test image in place of training rows, as one subject's."""
    judges = trained(clean.train, range(900, 900 + _JUDGES))
    mean = torch.stack([margins.of_examples(m, clean.test) for m in judges]).mean(0)
    hard = int(mean.argmin())
    seeded = generator(7)
    rows = torch.randperm(TRAIN, generator=seeded)[:40]
    x, y, groups = clean.train.x[:].clone(), clean.train.y.clone(), clean.groups.clone()
    noise = torch.randn(len(rows), x.shape[1], generator=seeded)
    x[rows] = (clean.test.x[:][hard] + 0.5 * noise).clamp(0, 16)
    y[rows] = clean.test.y[hard]
    groups[rows] = TRAIN
    others = (torch.arange(len(clean.test)) != hard).nonzero()[:, 0]
    data = replace(
        clean,
        name="near-copies",
        train=Examples(x, y),
        true=y,
        groups=groups,
        test=Examples(clean.test.x[others], clean.test.y[others]),
    )
    return data, rows


def _hardest(clean: Data, count: int) -> Tensor:
    """Return the rows that models which never saw them find hardest."""
    (found,) = out_of_fold(clean, Splits(_JUDGES, 2), [77])
    return found.values.mean(0).argsort()[:count]
