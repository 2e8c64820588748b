"""Describe a model: check that its architecture accepts its data, and return its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from service.messages.describe import Answer, Request, Weight
from service.messages.parts import Fraction
from unlearning import architectures, trainers
from unlearning.core import training
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from workers.compute import fitting
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return the names and shapes of the network's weights.

    Raise ``WrongOptions`` when a row does not fit the network (for a table, name row and column),
    or the recipe does not fit the rows.
    """
    model = request.model
    _, rows = place.open(request.data)
    # On the CPU: after a wrong index a CUDA device is unusable for the rest of the process.
    classifier = place.fresh(model).eval().cpu()
    allowed = (~rows.excluded).nonzero()[:, 0]
    fitting.check(classifier, rows.x, allowed, request.features)
    with torch.no_grad():
        logits = classifier(rows.x[allowed[:2]])
    if logits.shape[1] != request.classes:
        raise WrongOptions(
            f"the architecture gives {logits.shape[1]} outputs and the dataset has "
            f"{request.classes} classes; set the architecture's parameter for classes"
        )
    recipe = trainers.recipe(model.recipe)
    training.check(recipe, classifier, Examples(rows.x, rows.y, allowed))
    spec = architectures.parameter_spec(
        model.architecture.name, model.architecture.parameters, place.files(model)
    )
    return Answer(
        parameters={
            name: Weight(shape=list(shape), dtype=str(dtype).removeprefix("torch."))
            for name, (shape, dtype) in spec.items()
        },
        tied=[list(names) for names in architectures.ties(classifier.network)],
    )
