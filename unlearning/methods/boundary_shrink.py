"""Move each row to forget across the nearest decision boundary and train it to stay there.

The label of the nearest wrong class is looked up on the original network f₀:

    FGSM:  x′ = x + ε · sign(∇ₓ ℓ(x, y, w₀));    PGD: that step repeated with a smaller size, kept
                                                 within ε of x
    y′ = argmax f₀(x′) over the classes of D_r other than y

and a copy is fine-tuned with CE(f(x), y′) on D_f alone. ``x`` (n, *shape), ``y`` and ``y′`` (n,)
int64, logits (n, classes). Chen et al., Boundary Unlearning: Rapid Forgetting of Deep Networks via
Shifting the Decision Boundary (2023), section 3.2, equations 3 and 4.

``epsilon`` and ``pgd_step`` are fractions of the input's range: stored rows are scaled to about
0..1 by the model's own scale (1/255 for images of bytes). Batch-norm statistics stay frozen.

Guarantee: empirical. Made for forgetting a class: its region is divided among its neighbours. On
single records, the authors' setting teaches wrong labels, unlike a model that never saw them; there
``strength="calibrated"`` stops at the loss of unseen rows. Retained rows are not used, so it
assumes few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning.core import task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "step"


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """SGD at 1e-5, momentum .9, 10 epochs, batch 64; ε = .1."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-5
    search: Literal["fgsm", "pgd"] = "fgsm"
    epsilon: Annotated[float, Gt(0), Le(100)] = 0.1
    pgd_step: Annotated[float, Gt(0), Le(100)] = 8 / 255
    pgd_iterations: Annotated[int, Ge(1), Le(1000)] = 5


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model that gives ``forget`` the labels of its nearest wrong classes."""
    _strength.check(forget, retain)
    classes = _fine_tuning.retained_classes(forget, retain)
    labels = neighbour_labels(model, forget, classes=classes, options=options)
    neighbours = _fine_tuning.relabelled(forget, labels)

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.forgotten(network, neighbours, options.batch_size, generator):
            yield task.loss(network(x), y).mean()

    return _fine_tuning.run(
        model,
        losses,
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        attempts=5,  # the rate is tiny and the rows are few
    )


def neighbour_labels(
    model: nn.Module, forget: Examples, *, classes: Tensor, options: Options
) -> Tensor:
    """Return the nearest wrong label y′ of every row of ``forget``, (n,) int64 on the CPU.

    ``classes`` (k,) int64 are those that may be neighbours.
    """
    network = _fine_tuning.frozen_copy(model)
    scale = _unit(model, forget)
    found = []
    for x, y in forget.batches(options.batch_size, device=_fine_tuning.device_of(model)):
        with torch.no_grad():
            logits = network(_across(network, x, y, options, scale))
            open_to = torch.full_like(logits, float("-inf"))
            open_to[:, classes.to(logits.device)] = 0.0
            open_to.scatter_(1, y[:, None], float("-inf"))
            found.append((logits + open_to).argmax(1).cpu())
    return torch.cat(found)


def _across(network: nn.Module, x: Tensor, y: Tensor, options: Options, unit: float) -> Tensor:
    """Return ``x`` (n, *shape) moved by at most ε units towards a higher loss, floating point."""
    start = x.float() if not x.is_floating_point() else x
    radius = options.epsilon * unit
    once = options.search == "fgsm"
    step = radius if once else options.pgd_step * unit
    moved = start
    for _ in range(1 if once else options.pgd_iterations):
        moved = moved + step * _uphill(network, moved, y).sign()
        moved = moved.clamp(start - radius, start + radius)
    return moved


def _uphill(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return ∇ₓ of the loss, (n, *shape)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = task.loss(network(x), y).sum()
        found = torch.autograd.grad(loss, x, allow_unused=True) if loss.requires_grad else (None,)
        if found[0] is None:
            raise WrongOptions(
                "boundary_shrink follows the loss uphill in the input, and this network passes no "
                "gradient on to its input (does it look numbers up, or is a layer run under "
                "no_grad?): choose another method"
            )
        return found[0]


def _unit(model: nn.Module, examples: Examples) -> float:
    """Return one unit of input in stored numbers: 255 for images of bytes, else 1 / scale."""
    scale = getattr(getattr(model, "transform", None), "scale", None)
    if scale is not None and scale != 1.0:
        return 1.0 / float(scale)
    return 255.0 if examples.x.dtype == torch.uint8 and examples.x.ndim == 4 else 1.0
