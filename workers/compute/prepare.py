"""Prepare an anchor: sum its gradients, estimate its curvature, fit the law of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from models_store import Store
from service.messages.parts import Fraction, Made
from service.messages.prepare import Answer, Request
from unlearning import trainers
from unlearning.anchored import preparation
from unlearning.anchored.anchor import Anchor
from unlearning.core import training
from workers.compute import data, workspace
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Prepare the anchor of ``request``; return its cache as stored."""
    began = time.perf_counter()
    store, rows = place.open(request.data)
    model = place.load(store, request.model, request.digest)
    train = rows.split(data.TRAIN)
    recipe = trainers.recipe(request.model.recipe)
    prepared = preparation.prepare(
        model,
        train,
        rows.split(data.VALIDATION),
        loss=training.loss_of(recipe, model, train),
        generator=torch.Generator().manual_seed(request.seed),
        progress=lambda fraction: progress(Fraction(fraction=fraction)),
    )
    return Answer(
        artifacts=[keep(store, request.digest, prepared)],
        timings={"prepare": time.perf_counter() - began},
    )


def keep(store: Store, digest: str, prepared: Anchor, *, of_anchor: bool = False) -> Made:
    """Save an anchor's cache; return what the worker registers.

    ``of_anchor``: the cache was computed while another version was made.
    """
    saved = workspace.save(store, "caches", prepared.to_tensors(), {"of": digest})
    return workspace.made("caches", saved, {"rows": prepared.count}, of_anchor=of_anchor)
