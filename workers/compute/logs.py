"""The log of a training's updates, in the store: what it costs, and what of it is still to be had.

It holds which row was in which batch and what the batch did to the weights: internal state of the
anchor, destroyed with it.
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
    """Store a log; what a worker needs to register it.

    A log that outgrew its size is not kept: taking back a part of what a row did is no use.
    """
    if log is None or not log.complete:
        return []
    saved = workspace.save(store, "logs", log.to_tensors(), {})
    return [workspace.made("logs", saved, describe(log)["update_log"])]


def describe(log: UpdateLog | None) -> dict[str, Any]:
    """What a reader of the version should know of it; nothing where none was asked for."""
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
    """The log less the batches that held one of these rows: no batch is taken back twice."""
    kept = update_log.from_tensors(workspace.load(store, "logs", digest))
    gone = torch.as_tensor(list(taken_back), dtype=torch.int64)
    return kept.without(gone)
