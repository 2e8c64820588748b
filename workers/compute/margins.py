"""Out-of-fold margins, one model at a time: the targets of a batch, and what judges it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from models_store import Store, errors, tensors
from service.messages.margins import Answer, Request
from service.messages.parts import Fraction
from unlearning import trainers, verification
from unlearning.anchored import comparable, margins, targets
from unlearning.anchored.comparable import Comparable
from unlearning.anchored.margins import OutOfFold, Splits
from unlearning.anchored.targets import BatchMargins, Targets
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from workers.compute import data, margin_files, measuring, workspace
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
    sets = _Sets(
        rows.split(data.TRAIN),
        rows.split(data.VALIDATION),
        measuring.sets(rows, [])["audit"],
    )
    earlier = _earlier(request, store, sets, rows.split(data.AUDIT))
    if earlier is not None:
        sets = replace(sets, never_seen=earlier.never_seen)
    done = None if earlier is None else earlier.state
    state = _next(request, place, sets, done, progress)
    notes = {
        "splits": request.splits,
        "folds": request.folds,
        "trained": int((state.epochs > 0).sum()),
        "epochs": state.cost,
        "rows": len(sets.train),
        "complete": state.complete,
    }
    if state.complete:
        values = _finished(request, place, store, state, sets)
    else:
        values = {"held_out_rows": sets.validation.positions, **state.to_tensors()}
    numbers = {"rows": sets.train.positions, "never_seen_rows": sets.never_seen.positions}
    saved = workspace.save(store, KIND, numbers | values, {"of": request.anchor})
    return Answer(made=workspace.made(KIND, saved, notes))


@dataclass(frozen=True)
class Known:
    """The finished file of an anchor: targets, and the margins that judge, by row number."""

    rows: Tensor
    never_seen_rows: Tensor
    targets: Targets
    judging: Comparable

    def of_batch(self, forget: Examples) -> BatchMargins:
        """Return the targets of the rows to forget.

        The margins of retained rows are computed for the sampled rows alone.
        """
        found = self.targets
        value, variance = (
            _at(self.rows, values, forget.positions) for values in (found.value, found.variance)
        )
        return BatchMargins(replace(found, value=value, variance=variance))

    def outside(
        self, forget: Tensor, audit: Tensor, retain: Tensor, *, aimed: bool
    ) -> verification.Outside:
        """Return the margins of the rows with these numbers, each (k,), that judge an update.

        ``aimed``: the update may have used the targets.
        """
        train, never_seen = self.judging.of(aimed=aimed)
        return verification.Outside(
            forget=_at(self.rows, train, forget).numpy(),
            audit=_at(self.never_seen_rows, never_seen, audit).numpy(),
            retain=_at(self.rows, train, retain).numpy(),
            circular=aimed and self.judging.circular,
        )


def known(store: Store, digest: str | None) -> Known | None:
    """Return the finished file with this digest; None if there is no readable one.

    It is read for each batch and not cached, so that destroying it in the store is enough.
    """
    if digest is None:
        return None
    try:
        named = workspace.load(store, KIND, digest)
        return Known(
            named["rows"],
            named["never_seen_rows"],
            targets.from_tensors(named),
            comparable.from_tensors(named),
        )
    except (errors.CorruptCheckpoint, errors.NotStored, KeyError, WrongOptions) as damage:
        log.warning("no margins for this batch: %s", damage)
        return None


def _at(numbers: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Return the values (n,) of the rows ``wanted``, NaN for others; ``numbers`` (n,) ascend."""
    found = torch.full((len(wanted),), torch.nan, dtype=torch.float64)
    at = torch.searchsorted(numbers, wanted).clamp(max=max(len(numbers) - 1, 0))
    there = numbers[at] == wanted if len(numbers) else torch.zeros(len(wanted), dtype=torch.bool)
    found[there] = values[at[there]]
    return found


@dataclass(frozen=True)
class _Sets:
    """The rows that are trained on or scored."""

    train: Examples
    validation: Examples
    never_seen: Examples


@dataclass(frozen=True)
class _Earlier:
    """The margins so far, and the never-seen rows that have some."""

    state: OutOfFold
    never_seen: Examples


def _earlier(request: Request, store: Store, sets: _Sets, audit: Examples) -> _Earlier | None:
    """Return the margins so far, without rows excluded since; None: start from the beginning.

    ``audit`` are all audit rows that may be read: no other one takes an excluded one's place.
    """
    if request.resume is None:
        return None
    try:
        named = dict(tensors.load(store.blobs, request.resume, kind=KIND))
        told = {row for name in margin_files.OF for row in named[name].tolist()}
        present = {
            row for one in (sets.train, sets.validation, audit) for row in one.positions.tolist()
        }
        named = margin_files.without(named, told - present) or named
        found = {name: torch.from_numpy(tensor) for name, tensor in named.items()}
        same = torch.equal(found["rows"], sets.train.positions) and torch.equal(
            found["held_out_rows"], sets.validation.positions
        )
        if not same:
            raise WrongOptions("they are of other rows")
        never_seen = replace(audit, rows=found["never_seen_rows"])
        return _Earlier(margins.from_tensors(found), never_seen)
    except (errors.CorruptCheckpoint, errors.NotStored, KeyError, WrongOptions) as damage:
        log.warning("margins are computed from the beginning: %s", damage)
        return None


def _next(
    request: Request,
    place: Workspace,
    sets: _Sets,
    done: OutOfFold | None,
    progress: Callable[[Fraction], None],
) -> OutOfFold:
    def stop(state: OutOfFold) -> None:
        raise _OneTrained(state)

    try:
        return margins.prepare(
            lambda seed: place.fresh(request.model, generator=torch.Generator().manual_seed(seed)),
            sets.train,
            sets.validation,
            never_seen=sets.never_seen,
            trainer=_trainer(request, sets.validation),
            groups=_groups(sets.train, request.together),
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
    by_recipe = margins.by_recipe(trainers.recipe(request.model.recipe), validation)

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


def _finished(
    request: Request, place: Workspace, store: Store, state: OutOfFold, sets: _Sets
) -> dict[str, Tensor]:
    """Return the targets and the margins that judge, as tensors."""
    anchor = place.load(store, request.model, request.anchor)
    held_out = margins.of_examples(anchor, sets.validation)
    own = margins.of_examples(anchor, sets.train)
    found = comparable.crossed(state, own=own, held_out=held_out)
    return found.to_tensors() | comparable.of(state, held_out).to_tensors()
