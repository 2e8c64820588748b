"""Train a new anchor on the rows that are still allowed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from models_store import Store, errors
from service.messages.parts import Fraction
from service.messages.train import Answer, Approximate, Epochs, Progress, Request
from unlearning import trainers, verification
from unlearning.architectures import Classifier
from unlearning.core import objective, training
from unlearning.core.update_log import UpdateLog
from workers.compute import curves, data, heads, keeping, logs, measuring, workspace
from workers.compute.data import Data
from workers.compute.keeping import Keeper
from workers.compute.workspace import Workspace

log = logging.getLogger(__name__)


def run(request: Request, place: Workspace, progress: Callable[[Progress], None]) -> Answer:
    """Train with the request's seed; return checkpoint, results of epochs and measurements."""
    began = time.perf_counter()
    store, rows = place.open(request.data)
    train, validation = rows.split(data.TRAIN), rows.split(data.VALIDATION)
    recipe = trainers.recipe(request.model.recipe)
    criteria = verification.parse_criteria(request.gates)
    generator = torch.Generator().manual_seed(request.seed)
    kept = None
    if request.update_log_bytes:
        kept = UpdateLog(max_bytes=request.update_log_bytes)
    # Read before the training: by its end the version may have been withdrawn and destroyed.
    live = request.approximate
    approximate = None if live is None else _approximate(live, request, place, store)
    model = place.fresh(request.model, generator=generator)
    resumed = keeping.load(store, request.resume)
    curve = curves.Recorder(
        training_rows=len(train), validation_rows=len(validation), tell=progress
    )

    def show(fraction: float) -> None:
        if not len(curve):
            progress(Fraction(fraction=fraction))
            return
        epochs = recipe.epochs if isinstance(recipe, training.Recipe) else len(curve)
        progress(Epochs(fraction=fraction, epoch=len(curve), epochs=epochs))

    fitted = training.fit(
        model,
        train,
        validation,
        recipe=recipe,
        generator=generator,
        progress=show,
        ended=lambda _epoch, reached: curve.add(reached),
        log=kept,
        kept=Keeper(store, owner=request.run, seconds=request.keep_seconds, tell=progress),
        resume=resumed,
    )
    objective.recalibrate_batch_norm(model, train)
    trained = time.perf_counter()
    checkpoint = workspace.save(
        store,
        "checkpoints",
        model.network.state_dict(),
        {"origin": "trained", "seed": request.seed},
    )
    measured = measuring.describe(model, rows)
    comparison = None
    if live is not None and approximate is not None:
        comparison = _compare(live, rows, approximate, model)
    lost = comparison is not None and verification.loses_accuracy(comparison["sets"], criteria)
    return Answer(
        checkpoint=checkpoint,
        artifacts=[*logs.keep(store, kept), *heads.keep(store, fitted.statistics)],
        curve=curve.curve(),
        notes={
            "best_epoch": fitted.best_epoch,
            "training_rows": len(train),
            **({} if resumed is None else {"resumed_after_epochs": len(resumed.history)}),
            **logs.describe(kept),
            **heads.describe(fitted.statistics),
        },
        comparison=comparison,
        accuracy_drop=lost,
        timings={"train": trained - began, "measure": time.perf_counter() - trained},
        verification=measured,
    )


def _approximate(
    live: Approximate, request: Request, place: Workspace, store: Store
) -> Classifier | None:
    """Return the live approximate version; None when its weights cannot be read."""
    try:
        return place.load(store, request.model, live.digest)
    except (errors.CorruptCheckpoint, errors.NotStored) as damage:
        # An unreadable version must not prevent its replacement by an exact one.
        log.warning("version %d is not compared: %s", live.number, damage)
        return None


def _compare(
    live: Approximate, rows: Data, approximate: Classifier, exact: Classifier
) -> dict[str, Any]:
    """Score both versions on never-seen, retained and validation rows; forgotten rows are erased.

    Rows that either version was trained on do not count as never seen.
    """
    if live.trained_on is not None:
        # A run that is resumed knows no rows that were appended, and imported with, since it began.
        seen = data.mask(len(rows.excluded), live.trained_on)
        rows = replace(rows, excluded=rows.excluded | (seen & ~rows.layout.training))
    sides = [
        {
            name: verification.score(model, examples, keep_probabilities=True)
            for name, examples in measuring.sets(rows, []).items()
        }
        for model in (approximate, exact)
    ]
    return {
        "approximate": {"version": live.number, "digest": live.digest},
        "sets": verification.compare(sides[0], sides[1]),
    }
