"""Prepare an anchor: sum its gradients, estimate its curvature, fit the law of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from models_store import Store
from unlearning import preparation
from unlearning.anchor import Anchor
from workers import data
from workers.compute import workspace
from workers.compute.workspace import Workspace


def run(
    request: dict[str, Any], place: Workspace, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Prepare the anchor of ``request``; the cache's place in the store."""
    store = place.store(request["store"])
    began = time.perf_counter()
    rows = data.open_array(
        store,
        request["array"],
        excluded=request["excluded"],
        trained_on=request["trained_on"],
    )
    model = place.load(store, request["model"], request["anchor"]["digest"])
    prepared = preparation.prepare(
        model,
        rows.split(data.TRAIN),
        rows.split(data.VALIDATION),
        generator=torch.Generator().manual_seed(request["seed"]),
        progress=lambda fraction: progress({"fraction": fraction}),
    )
    return {
        "artifacts": [keep(store, request["anchor"]["digest"], prepared)],
        "timings": {"prepare": time.perf_counter() - began},
    }


def keep(store: Store, digest: str, prepared: Anchor) -> dict[str, Any]:
    """Save an anchor's cache; what a worker needs to register it."""
    saved = workspace.save(store, "caches", prepared.to_tensors(), {"of": digest})
    return saved | {"notes": {"rows": prepared.count}}
