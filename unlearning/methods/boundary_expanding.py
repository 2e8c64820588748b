"""Give the rows to forget a class of their own, then take that class away.

The head (the linear layer whose output is the logits) gets a row C + 1 beside its C, a copy of the
model is fine-tuned with CE(f(x), C) on D_f alone, and the extra row is dropped:

    W (C, d) → (C + 1, d) → train → first C rows;   b (C,) likewise

``x`` (n, *shape), labels (n,) int64, logits (n, classes). Chen et al., Boundary Unlearning: Rapid
Forgetting of Deep Networks via Shifting the Decision Boundary (2023), section 3.3.

Batch-norm statistics stay frozen. Needs to find the head: the network must end in an ``nn.Linear``
with a weight of its own, neither parametrised (weight norm) nor shared with another layer.

Guarantee: empirical, and made for forgetting a class. The extra row draws the rows away from their
own class, but how the other rows classify them once it is gone is not controlled; retained rows are
not used, so it assumes few steps.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
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
    """SGD at 1e-5, momentum .9, 10 epochs, batch 64."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-5


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model whose head had an extra class for ``forget`` and lost it again."""
    _strength.check(forget, retain)
    name = head(model, forget)
    classes = _fine_tuning.class_count(model, forget)
    widened = _with_head(model, name, classes + 1, generator)
    extra = _fine_tuning.relabelled(forget, torch.full_like(forget.labels, classes))

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.forgotten(network, extra, options.batch_size, generator):
            yield task.loss(network(x), y).mean()

    return _fine_tuning.run(
        model,
        losses,
        start=widened,
        finish=lambda network: _with_head(network, name, classes, generator),
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        attempts=5,  # the rate is tiny and the rows are few
    )


def head(model: nn.Module, examples: Examples) -> str:
    """Return the name of the linear layer whose output is the model's logits."""
    network = _fine_tuning.frozen_copy(model)
    outputs: dict[str, Tensor] = {}
    shared = _shared(network)

    def record(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    hooks = [
        module.register_forward_hook(record(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and _plain(module, shared)
    ]
    row = examples.subset(torch.tensor([0]))
    x, _ = next(row.batches(1, device=_fine_tuning.device_of(network)))
    logits = network(x)
    for hook in hooks:
        hook.remove()
    found = [name for name, output in outputs.items() if torch.equal(output, logits)]
    if not found:
        raise WrongOptions(
            "boundary_expanding widens the last linear layer, and none of this network's "
            f"{len(hooks)} nn.Linear layers with a weight of their own gives its logits: end the "
            "network in an nn.Linear, without weight norm or a shared weight, or choose another "
            "method"
        )
    return found[-1]


def _plain(layer: nn.Linear, shared: set[int]) -> bool:
    """Return whether the layer has weight and bias alone, and shares them with no other layer."""
    own = dict(layer.named_parameters())
    plain = "weight" in own and own.keys() <= {"weight", "bias"}
    return plain and not shared & {id(p) for p in own.values()}


def _shared(network: nn.Module) -> set[int]:
    """Return the identities of the parameters that more than one module holds."""
    held = Counter(id(p) for m in network.modules() for p in m.parameters(recurse=False))
    return {key for key, count in held.items() if count > 1}


def _with_head(model: nn.Module, name: str, rows: int, generator: torch.Generator) -> nn.Module:
    """Return a copy of the model whose head has ``rows`` rows: cut, or extended by new ones."""
    network = copy.deepcopy(model)
    old = network.get_submodule(name)
    assert isinstance(old, nn.Linear)
    new = copy.deepcopy(old)
    new.out_features = rows
    bound = old.in_features**-0.5  # nn.Linear's own initialisation
    for key, parameter in old.named_parameters():
        fresh = torch.empty(rows, *parameter.shape[1:])
        fresh = fresh.uniform_(-bound, bound, generator=generator).to(parameter)
        kept = min(rows, len(parameter))
        fresh[:kept] = parameter.detach()[:kept]
        setattr(new, key, nn.Parameter(fresh, requires_grad=parameter.requires_grad))
    network.set_submodule(name, new)
    return network
