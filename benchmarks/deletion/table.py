"""A table that a network has learned by heart: thirty classes of noisy yes-or-no answers.

Made from a seed after the shape of the location data that membership attacks are tried on (Shokri
et al., "Membership inference attacks against machine learning models", S&P 2017, section VI.A:
446 binary features, 30 classes). Every training row is fitted, and test accuracy is far lower.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from benchmarks.deletion.bench import Bench
from benchmarks.memorised import stacked
from unlearning.anchored import margins, preparation, targets
from unlearning.anchored.margins import Splits
from unlearning.architectures import Classifier, Transform, classifier
from unlearning.core.examples import Examples

FEATURES, CLASSES = 446, 30
ROWS, VALIDATION, TEST = 2_000, 1_000, 2_000
#: Share of a class's answers that differ from those of all classes, and of answers given by chance.
_OWN, _CHANCE = 0.12, 0.70


def bench() -> Bench:
    """Return the table with a network that has learned it by heart."""
    x, y = _table()
    everything = Examples(x, y)
    ends = (0, ROWS, ROWS + VALIDATION, len(y))
    rows, validation, test = (
        everything.subset(torch.arange(start, end)) for start, end in pairwise(ends)
    )

    model = _train(rows, 0)
    out = margins.prepare(_fresh, rows, validation, trainer=_learn, options=Splits(2, 2), seed=0)
    return Bench(
        rows,
        validation,
        test,
        _train,
        model,
        preparation.prepare(model, rows, validation, generator=torch.Generator().manual_seed(0)),
        targets.fit(
            out,
            own=margins.of_examples(model, rows),
            held_out=margins.of_examples(model, validation),
        ),
    )


def _train(rows: Examples, seed: int) -> Classifier:
    made = _fresh(seed)
    stacked.fit([(made, rows, torch.Generator().manual_seed(seed))])
    return made


def _learn(
    model: nn.Module, rows: Examples, generator: torch.Generator, _: Callable[[float], None]
) -> int:
    assert isinstance(model, Classifier)
    stacked.fit([(model, rows, generator)])
    return stacked.EPOCHS


def _fresh(seed: int) -> Classifier:
    return classifier(
        "mlp",
        {"inputs": FEATURES, "hidden": (256, 128), "classes": CLASSES},
        Transform(),
        generator=torch.Generator().manual_seed(seed),
    )


def _table() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(20)
    count = ROWS + VALIDATION + TEST
    common = torch.rand(FEATURES, generator=generator) < 0.3
    own = torch.rand(CLASSES, FEATURES, generator=generator) < _OWN
    y = torch.randint(CLASSES, (count,), generator=generator)
    answers = common ^ own[y]
    chance = torch.rand(count, FEATURES, generator=generator) < _CHANCE
    guesses = torch.rand(count, FEATURES, generator=generator) < 0.5
    return torch.where(chance, guesses, answers).float(), y
