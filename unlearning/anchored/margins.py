"""Margins of training rows under models that were not trained on them.

The margin of an example is the log-odds of its label,

    φ(z, y) = z_y − log Σ_{c≠y} exp z_c = log p_y − log(1 − p_y).

Its gradient, unlike the loss's, does not vanish as p_y → 1, so it measures how far a memorised row
is from being unknown.

An *out-of-fold* margin of a training row is its margin under a model of the same recipe whose
training rows did not include it. One split of the rows into k folds trains k models, each without
one fold, and gives every row one such margin. Rows of one subject share a fold: a near-copy of a
row in the training would otherwise raise its margin.

The values describe single rows. They are internal state: a row's values are erased with the row,
all of them when the model is retrained.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from unlearning.core import objective, ranks, task, training
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions

MOST_SPLITS = 4
MOST_FOLDS = 8


@dataclass(frozen=True)
class Splits:
    """How often the training rows are split, and into how many folds.

    A split of k folds costs about k − 1 trainings.
    """

    splits: Annotated[int, Ge(0), Le(MOST_SPLITS)] = 3
    folds: Annotated[int, Ge(2), Le(MOST_FOLDS)] = 2


def of_examples(
    model: nn.Module, examples: Examples, *, batch_size: int = objective.BATCH
) -> Tensor:
    """Return the margin of each example, (n,) float64 on the CPU, in evaluation mode."""
    device = next(model.parameters()).device
    division = ranks.by_batches(len(examples), batch_size)
    mine = division.part(examples)
    with objective.evaluating(model), torch.no_grad():
        parts = [task.margin(model(x), y).cpu() for x, y in mine.batches(batch_size, device=device)]
    return division.joined(torch.cat(parts)) if parts else torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold margins of n training rows, complete or in progress.

    ``values`` (splits, n) float64, NaN until the model of the row's fold is trained. ``fold``
    (splits, n) int64. ``held_out`` (splits, folds, m) float64: margins of the m validation rows
    under each model, with which the models are brought to one scale. ``never_seen``
    (splits, folds, u) float64: margins of u audit rows under each model, with which a verification
    compares those of forgotten rows. ``epochs`` (splits, folds) int64: the number of epochs of each
    training, 0 before it.
    """

    values: Tensor
    fold: Tensor
    held_out: Tensor
    never_seen: Tensor
    epochs: Tensor

    @property
    def complete(self) -> bool:
        """Return whether every model is trained."""
        return bool((self.epochs > 0).all())

    @property
    def cost(self) -> float:
        """Return the cost so far, in epochs over all n training rows."""
        splits, folds = self.epochs.shape
        rows = self.fold.shape[1]
        total = 0
        for s in range(splits):
            sizes = torch.bincount(self.fold[s], minlength=folds)
            total += int((self.epochs[s] * (rows - sizes)).sum())
        return total / rows

    def only(self, splits: Sequence[int]) -> OutOfFold:
        """Return the margins of some of the splits, such as those that set targets."""
        where = list(splits)
        return OutOfFold(**{name: getattr(self, name)[where] for name in _TENSORS})

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`from_tensors` reads them."""
        return {name: getattr(self, name).contiguous() for name in _TENSORS}


_TENSORS = ("values", "fold", "held_out", "never_seen", "epochs")


def from_tensors(tensors: Mapping[str, Tensor]) -> OutOfFold:
    """Return the margins that :meth:`OutOfFold.to_tensors` wrote."""
    if missing := set(_TENSORS) - set(tensors):
        raise WrongOptions(f"not out-of-fold margins: {', '.join(sorted(missing))} missing")
    return OutOfFold(**{name: tensors[name] for name in _TENSORS})


#: Trains an untrained model in place on the rows, with the generator; returns the epochs it took.
Trainer = Callable[[nn.Module, Examples, torch.Generator, Callable[[float], None]], int]


def by_recipe(recipe: training.Recipe | training.OwnCode, validation: Examples) -> Trainer:
    """Return the trainer that follows ``recipe``, as the full model's training did."""

    def train(
        model: nn.Module,
        rows: Examples,
        generator: torch.Generator,
        progress: Callable[[float], None],
    ) -> int:
        found = training.fit(
            model, rows, validation, recipe=recipe, generator=generator, progress=progress
        )
        return len(found.history)

    return train


def prepare(
    fresh: Callable[[int], nn.Module],
    train: Examples,
    validation: Examples,
    *,
    trainer: Trainer,
    never_seen: Examples | None = None,
    groups: Tensor | None = None,
    options: Splits | None = None,
    seed: int,
    done: OutOfFold | None = None,
    kept: Callable[[OutOfFold], None] = lambda _state: None,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> OutOfFold:
    """Train the models of every fold and return the out-of-fold margins of ``train``.

    ``fresh`` returns the untrained network for a seed. ``groups`` (n,) int64 numbers the subject of
    each row; None puts each row in a group of its own. ``never_seen`` are audit rows, which nothing
    but a verification may use.

    ``kept`` receives the state after each model; a preparation that resumes from it with the same
    arguments (``done``) gives the same values bit for bit as an uninterrupted one. To cancel, raise
    from ``progress`` or ``kept``: kept states stay valid. Every (split, fold) has its own seed,
    which does not depend on the number of splits.
    """
    options = options or Splits()
    table = _seeds(seed)
    judging = train.subset(torch.arange(0)) if never_seen is None else never_seen
    state = done or _empty(len(train), len(validation), len(judging), groups, options, table)
    _check(state, train, validation, judging, options)
    models = options.splits * options.folds
    for split in range(options.splits):
        for fold in range(options.folds):
            if state.epochs[split, fold]:
                continue
            before = split * options.folds + fold
            progress(before / models)
            state = _one_model(
                state,
                split,
                fold,
                fresh,
                train,
                (validation, judging),
                trainer,
                table[split][1 + fold],
                lambda f, before=before: progress((before + f) / models),  # type: ignore[misc]
            )
            kept(state)
    progress(1.0)
    return state


def _one_model(
    state: OutOfFold,
    split: int,
    fold: int,
    fresh: Callable[[int], nn.Module],
    train: Examples,
    others: tuple[Examples, Examples],
    trainer: Trainer,
    seed: int,
    progress: Callable[[float], None],
) -> OutOfFold:
    """Return the state with the model of one fold trained and its margins filled in.

    ``others`` are the validation and the never-seen rows.
    """
    inside = state.fold[split] == fold
    out, rest = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
    model = fresh(seed)
    epochs = trainer(model, train.subset(rest), torch.Generator().manual_seed(seed), progress)
    named = {name: getattr(state, name).clone() for name in _TENSORS if name != "fold"}
    named["values"][split, out] = of_examples(model, train.subset(out))
    for name, examples in zip(("held_out", "never_seen"), others, strict=True):
        named[name][split, fold] = of_examples(model, examples)
    named["epochs"][split, fold] = max(1, epochs)
    return replace(state, **named)


def assign_folds(groups: Tensor, folds: int, *, generator: torch.Generator) -> Tensor:
    """Return the fold of each row, (n,) int64; rows of one group share a fold.

    Groups go in random order, larger ones first, each to the fold with the fewest rows, so that
    folds differ by at most the largest group's size.
    """
    _, inverse, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    if len(counts) < folds:
        raise WrongOptions(
            f"{folds} folds need as many subjects, and the training rows are of {len(counts)}"
        )
    shuffled = torch.randperm(len(counts), generator=generator)
    order = shuffled[counts[shuffled].argsort(descending=True, stable=True)]
    sizes = [(0, int(k)) for k in torch.randperm(folds, generator=generator)]
    heapq.heapify(sizes)
    of_group = [0] * len(counts)
    for group, count in zip(order.tolist(), counts[order].tolist(), strict=True):
        size, fold = heapq.heappop(sizes)
        of_group[group] = fold
        heapq.heappush(sizes, (size + count, fold))
    return torch.tensor(of_group)[inverse]


def _seeds(seed: int) -> list[list[int]]:
    """Return for each split the seed of its folds (first), and of the model of each fold."""
    generator = torch.Generator().manual_seed(seed)
    table: list[list[int]] = torch.randint(
        2**62, (MOST_SPLITS, 1 + MOST_FOLDS), generator=generator
    ).tolist()
    return table


def _empty(
    rows: int,
    held_out: int,
    never_seen: int,
    groups: Tensor | None,
    options: Splits,
    table: list[list[int]],
) -> OutOfFold:
    groups = torch.arange(rows) if groups is None else groups
    if len(groups) != rows:
        raise WrongOptions(f"{len(groups)} subjects are given for {rows} training rows")
    splits, folds = options.splits, options.folds
    assigned = [
        assign_folds(groups, folds, generator=torch.Generator().manual_seed(table[s][0]))
        for s in range(splits)
    ]
    return OutOfFold(
        values=torch.full((splits, rows), torch.nan, dtype=torch.float64),
        fold=torch.stack(assigned) if assigned else torch.zeros(0, rows, dtype=torch.int64),
        held_out=torch.full((splits, folds, held_out), torch.nan, dtype=torch.float64),
        never_seen=torch.full((splits, folds, never_seen), torch.nan, dtype=torch.float64),
        epochs=torch.zeros(splits, folds, dtype=torch.int64),
    )


def _check(
    state: OutOfFold,
    train: Examples,
    validation: Examples,
    never_seen: Examples,
    options: Splits,
) -> None:
    expected = (options.splits, options.folds, len(train), len(validation), len(never_seen))
    rows = (state.fold.shape[1], state.held_out.shape[2], state.never_seen.shape[2])
    found = (*state.epochs.shape, *rows)
    if found != expected:
        raise WrongOptions(
            "the margins to resume from are of (splits, folds, rows, validation rows, never-seen "
            f"rows) {found}, not {expected}: start again"
        )
    if not len(validation):
        raise WrongOptions("out-of-fold margins need validation rows to bring models to one scale")
