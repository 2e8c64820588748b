"""Describe a model: does its architecture build on its data, and which weights does it have?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from unlearning import architectures
from unlearning.errors import WrongOptions
from workers import data
from workers.compute import fitting
from workers.compute.workspace import Workspace


def run(
    request: dict[str, Any], place: Workspace, progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """``{"parameters": {name: [shape, dtype]}, "tied": [[name, ...]]}``.

    Raise an error when a row does not fit the network: of a table, row and column are named.
    """
    model = request["model"]
    array = data.open_array(
        place.store(request["store"]), request["array"], excluded=request["excluded"]
    )
    # On the processor: after a wrong index a card is of no use to the whole process.
    classifier = place.fresh(model).eval().cpu()
    allowed = (~array.excluded).nonzero()[:, 0]
    fitting.check(classifier, array.x, allowed, request["features"])
    with torch.no_grad():
        logits = classifier(array.x[allowed[:2]])
    if logits.shape[1] != request["classes"]:
        raise WrongOptions(
            f"the architecture gives {logits.shape[1]} outputs and the dataset has "
            f"{request['classes']} classes; set the architecture's parameter for classes"
        )
    spec = architectures.parameter_spec(
        model["architecture"]["name"], model["architecture"]["parameters"]
    )
    return {
        "parameters": {
            name: [list(shape), str(dtype).removeprefix("torch.")]
            for name, (shape, dtype) in spec.items()
        },
        "tied": architectures.ties(classifier.network),
    }
