"""Store and load the log of a training's updates.

The log holds which row was in which batch and how the batch changed the weights. It is internal
state of the anchor and is destroyed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from models_store import Store
from service.messages.parts import Made
from unlearning.core import update_log
from unlearning.core.update_log import UpdateLog
from workers.compute import workspace


def keep(store: Store, log: UpdateLog | None) -> list[Made]:
    """Store a log; return what the worker registers.

    A log that exceeded its size limit is not kept: it could only undo a part of a row's updates.
    """
    if log is None or not log.complete:
        return []
    saved = workspace.save(store, "logs", log.to_tensors(), {})
    return [workspace.made("logs", saved, describe(log)["update_log"])]


def describe(log: UpdateLog | None) -> dict[str, Any]:
    """Return the log's public facts for the version's report; {} if no log was asked for."""
    if log is None:
        return {}
    return {
        "update_log": {
            "complete": log.complete,
            "batches": len(log),
            "size_bytes": log.size_bytes,
            "max_bytes": log.max_bytes,
        }
    }


def load(store: Store, digest: str, *, taken_back: Sequence[int]) -> UpdateLog:
    """Return the log without the batches that held one of these rows, which are undone already."""
    kept = update_log.from_tensors(workspace.load(store, "logs", digest))
    gone = torch.as_tensor(list(taken_back), dtype=torch.int64)
    return kept.without(gone)
