"""Scores of one model on the rows of one set: the only input of a verification.

Scores are small and contain no features, so those of the base version can be cached and those of
earlier batches kept after their raw rows are erased.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearning.core import objective, ranks, task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

#: In place of a loss that is NaN or infinite: worse than any finite loss, yet comparable.
WORST_LOSS = 1e30


@dataclass(frozen=True)
class Scores:
    """One model on one set of n rows.

    ``loss`` (n,) float64 is the cross entropy -log p(label), ``correct`` (n,) bool whether the
    largest logit is the label's, ``label`` (n,) int64. ``rows`` (n,) int64 names the rows, so that
    two models' scores can be paired and sets that lost a row can be aligned.
    ``probabilities`` (n, classes) float32 is kept only on demand, for divergences.
    """

    loss: Floats
    correct: Booleans
    label: Integers
    rows: Integers
    probabilities: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def finite(self) -> bool:
        """Return whether the model gave a finite loss for every row."""
        return bool(np.all(self.loss < WORST_LOSS))

    def take(self, positions: NDArray[np.int64] | NDArray[np.bool_]) -> Scores:
        """Return the scores at ``positions`` (indices or a mask), in that order."""
        kept = self.probabilities
        return Scores(
            loss=self.loss[positions],
            correct=self.correct[positions],
            label=self.label[positions],
            rows=self.rows[positions],
            probabilities=None if kept is None else kept[positions],
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return plain arrays by name, for storage."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in named.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Scores:
        """Return the scores from which ``to_arrays`` made these arrays."""
        kept = arrays.get("probabilities")
        return cls(
            loss=np.asarray(arrays["loss"], dtype=np.float64),
            correct=np.asarray(arrays["correct"], dtype=np.bool_),
            label=np.asarray(arrays["label"], dtype=np.int64),
            rows=np.asarray(arrays["rows"], dtype=np.int64),
            probabilities=None if kept is None else np.asarray(kept, dtype=np.float32),
        )


@dataclass(frozen=True)
class ModelScores:
    """One model on the sets of a verification.

    ``forget`` holds rows that the model's chain was trained on and that are to be forgotten (rows
    of another split were never learned and do not belong here); ``audit`` holds never-seen rows,
    which alone judge removal; ``retain`` a sample of the rows still allowed; ``calibration`` the
    validation rows, which set step lengths and never judge.
    """

    forget: Scores
    audit: Scores
    retain: Scores | None = None
    calibration: Scores | None = None

    def sets(self) -> dict[str, Scores]:
        """Return the sets that are not empty, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: scores for name, scores in named.items() if scores is not None}

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return plain arrays named ``set.field``, for storage."""
        return {
            f"{name}.{field}": array
            for name, scores in self.sets().items()
            for field, array in scores.to_arrays().items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ModelScores:
        """Return the scores from which ``to_arrays`` made these arrays."""
        grouped: dict[str, dict[str, NDArray[np.generic]]] = {}
        for key, array in arrays.items():
            name, _, field = key.partition(".")
            grouped.setdefault(name, {})[field] = array
        return cls(**{name: Scores.from_arrays(group) for name, group in grouped.items()})


def score(
    model: nn.Module,
    examples: Examples,
    *,
    batch_size: int = objective.BATCH,
    rows: Integers | None = None,
    keep_probabilities: bool = False,
) -> Scores:
    """Score ``model`` in eval mode on ``examples``; the model is not changed.

    Losses are computed in float64, where a confident row has a positive loss instead of the 0.0 or
    -0.0 of float32. ``rows`` names the rows; by default they are the positions in the examples'
    storage, which suits sets that are views of one dataset.
    """
    was_training = model.training
    model.eval()
    try:
        loss, hits, shares = _forward(model, examples, batch_size, keep_probabilities)
    finally:
        model.train(was_training)
    if rows is None:
        rows = np.arange(len(examples)) if examples.rows is None else examples.rows.numpy()
    if len(rows) != len(examples):
        raise WrongOptions(f"{len(rows)} row names were given for {len(examples)} examples")
    return Scores(
        loss=np.nan_to_num(loss, nan=WORST_LOSS, posinf=WORST_LOSS).clip(0.0, WORST_LOSS),
        correct=hits,
        label=examples.labels.numpy().astype(np.int64),
        rows=np.asarray(rows, dtype=np.int64),
        probabilities=shares,
    )


@torch.no_grad()
def _forward(
    model: nn.Module, examples: Examples, batch_size: int, keep_probabilities: bool
) -> tuple[Floats, Booleans, NDArray[np.float32] | None]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    losses = [torch.zeros(0, dtype=torch.float64)]
    hits, shares = [torch.zeros(0, dtype=torch.bool)], []
    division = ranks.by_batches(len(examples), batch_size)
    for x, y in division.part(examples).batches(batch_size, device=device):
        logits = model(x).cpu().double()
        label = y.cpu()
        losses.append(task.loss(logits, label))
        hits.append(task.correct(logits, label))
        if keep_probabilities:
            shares.append(task.log_probabilities(logits).exp().float())
    return (
        division.joined(torch.cat(losses)).numpy(),
        division.joined(torch.cat(hits)).numpy(),
        division.joined(torch.cat(shares)).numpy() if shares else None,
    )
