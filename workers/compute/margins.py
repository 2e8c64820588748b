"""Out-of-fold margins of training rows, one model at a time, and the targets of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from models_store import Store, errors, tensors
from service.messages.margins import Answer, Request
from service.messages.parts import Fraction
from unlearning.anchored import margins, targets
from unlearning.anchored.margins import OutOfFold, Splits
from unlearning.anchored.targets import BatchMargins, Targets
from unlearning.core import objective, options, training
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from workers.compute import data, margin_files, workspace
from workers.compute.workspace import Workspace

log = logging.getLogger(__name__)

KIND: Final = "margins"


class _OneTrained(Exception):
    """One more model is trained; the others are left to later requests."""

    def __init__(self, state: OutOfFold) -> None:
        super().__init__()
        self.state = state


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Train the next model and store the margins so far, or the targets after the last model."""
    store, rows = place.open(request.data)
    train, validation = rows.split(data.TRAIN), rows.split(data.VALIDATION)
    state = _next(
        request, place, train, validation, _earlier(request, store, train, validation), progress
    )
    notes = {
        "splits": request.splits,
        "folds": request.folds,
        "trained": int((state.epochs > 0).sum()),
        "epochs": state.cost,
        "rows": len(train),
        "complete": state.complete,
    }
    if state.complete:
        found = _targets(request, place, store, state, train, validation)
        named = {"rows": train.positions, **found.to_tensors()}
    else:
        held_out = {"held_out_rows": validation.positions}
        named = {"rows": train.positions, **held_out, **state.to_tensors()}
    saved = workspace.save(store, KIND, named, {"of": request.anchor})
    return Answer(made=workspace.made(KIND, saved, notes))


def of_batch(store: Store, digest: str | None, forget: Examples) -> BatchMargins | None:
    """Return the targets of the rows to forget; None if there is no readable file of them.

    The file is read for each batch and not cached, so that destroying it in the store is enough.
    """
    if digest is None:
        return None
    try:
        named = workspace.load(store, KIND, digest)
    except (errors.CorruptCheckpoint, errors.NotStored) as damage:
        log.warning("no targets for this batch: %s", damage)
        return None
    known, wanted = named.pop("rows"), forget.positions
    found = targets.from_tensors(named)
    at = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
    there = known[at] == wanted if len(known) else torch.zeros(len(wanted), dtype=torch.bool)
    # The margins of retained rows are computed for the sampled rows alone.
    return BatchMargins(
        Targets(
            _where(there, found.value, at),
            _where(there, found.variance, at),
            found.reliability,
            found.spread,
            found.splits,
        )
    )


def _where(there: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Return ``values`` at the indices ``at``, NaN where ``there`` is False."""
    found = torch.full((len(at),), torch.nan, dtype=torch.float64)
    found[there] = values[at[there]]
    return found


def _earlier(
    request: Request, store: Store, train: Examples, validation: Examples
) -> OutOfFold | None:
    """Return the margins so far, without rows excluded since; None: start from the beginning."""
    if request.resume is None:
        return None
    try:
        named = dict(tensors.load(store.blobs, request.resume, kind=KIND))
        told = set(named["rows"].tolist()) | set(named["held_out_rows"].tolist())
        gone = told - set(train.positions.tolist()) - set(validation.positions.tolist())
        named = margin_files.without(named, gone) or named
        same = torch.equal(torch.from_numpy(named.pop("rows")), train.positions) and torch.equal(
            torch.from_numpy(named.pop("held_out_rows")), validation.positions
        )
        if not same:
            raise WrongOptions("they are of other rows")
        return margins.from_tensors({name: torch.from_numpy(t) for name, t in named.items()})
    except (errors.CorruptCheckpoint, errors.NotStored, KeyError, WrongOptions) as damage:
        log.warning("margins are computed from the beginning: %s", damage)
        return None


def _next(
    request: Request,
    place: Workspace,
    train: Examples,
    validation: Examples,
    done: OutOfFold | None,
    progress: Callable[[Fraction], None],
) -> OutOfFold:
    def stop(state: OutOfFold) -> None:
        raise _OneTrained(state)

    try:
        return margins.prepare(
            lambda seed: place.fresh(request.model, generator=torch.Generator().manual_seed(seed)),
            train,
            validation,
            trainer=_trainer(request, validation),
            groups=_groups(train, request.together),
            options=Splits(request.splits, request.folds),
            seed=request.seed,
            done=done,
            kept=stop,
            progress=lambda fraction: progress(Fraction(fraction=fraction)),
        )
    except _OneTrained as one:
        return one.state


def _trainer(request: Request, validation: Examples) -> margins.Trainer:
    """Return a trainer that follows the anchor's recipe and recalibrates batch normalisation."""
    by_recipe = margins.by_recipe(options.parse(training.Recipe, request.model.recipe), validation)

    def train(
        model: nn.Module,
        rows: Examples,
        generator: torch.Generator,
        progress: Callable[[float], None],
    ) -> int:
        epochs = by_recipe(model, rows, generator, progress)
        objective.recalibrate_batch_norm(model, rows)
        return epochs

    return train


def _groups(train: Examples, together: list[list[int]]) -> Tensor:
    """Return the group of each training row, (n,) int64."""
    of_row = {int(row): place for place, row in enumerate(train.positions)}
    groups = torch.arange(len(train))
    for rows in together:
        places = [of_row[row] for row in rows if row in of_row]
        groups[places] = min(places, default=0)
    return groups


def _targets(
    request: Request,
    place: Workspace,
    store: Store,
    state: OutOfFold,
    train: Examples,
    validation: Examples,
) -> Targets:
    anchor = place.load(store, request.model, request.anchor)
    return targets.fit(
        state,
        own=margins.of_examples(anchor, train),
        held_out=margins.of_examples(anchor, validation),
    )
