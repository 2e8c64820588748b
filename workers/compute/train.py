"""Train a new anchor on the rows that are still allowed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unlearning import objective, options, training
from unlearning.update_log import UpdateLog
from workers import data
from workers.compute import measuring, workspace
from workers.compute.workspace import Workspace


def run(
    request: dict[str, Any], place: Workspace, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Train with the request's seed; the checkpoint, its history and what it measures."""
    root = Path(request["store"])
    began = time.perf_counter()
    rows = data.open_array(root, request["array"], excluded=request["excluded"])
    train, validation = rows.split(data.TRAIN), rows.split(data.VALIDATION)
    recipe = options.parse(training.Recipe, request["model"]["recipe"])
    generator = torch.Generator().manual_seed(request["seed"])
    log = None
    if request.get("update_log_bytes"):
        log = UpdateLog(max_bytes=request["update_log_bytes"])
    model = place.fresh(request["model"], generator=generator)
    shown: dict[str, Any] = {}

    def ended(epoch: int, reached: training.Epoch) -> None:
        shown.update(epoch=epoch + 1, epochs=recipe.epochs, **asdict(reached))

    fitted = training.fit(
        model,
        train,
        validation,
        recipe=recipe,
        generator=generator,
        progress=lambda fraction: progress({"fraction": fraction, **shown}),
        ended=ended,
        log=log,
    )
    objective.recalibrate_batch_norm(model, train)
    trained = time.perf_counter()
    checkpoint = workspace.save(
        root,
        "checkpoints",
        model.network.state_dict(),
        {"origin": "trained", "seed": request["seed"]},
    )
    artifacts = []
    if log is not None:
        kept = workspace.save(root, "logs", log.to_tensors(), {"of": checkpoint["digest"]})
        artifacts.append(kept)
    measured = measuring.describe(model, rows)
    return {
        "checkpoint": checkpoint,
        "artifacts": artifacts,
        "notes": {
            "history": [asdict(epoch) for epoch in fitted.history],
            "best_epoch": fitted.best_epoch,
            "training_rows": len(train),
        },
        "timings": {"train": trained - began, "measure": time.perf_counter() - trained},
        "verification": measured,
    }
