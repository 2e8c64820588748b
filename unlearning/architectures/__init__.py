"""Every file beside this one is an architecture; the file's name is the architecture's name.

An architecture file defines

- ``Parameters``: a frozen dataclass, constrained with ``annotated_types``;
- ``build(parameters) -> nn.Module``: the untrained network, on already transformed float input.

A package of your own adds an architecture by declaring an entry point in the group
``unlearning.architectures`` whose value is such a module. Only installed packages are looked at:
an import path never comes from a request.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.core import options
from unlearning.errors import UnknownName, WrongOptions

GROUP = "unlearning.architectures"


@dataclass(frozen=True)
class Architecture:
    """One architecture as its module declares it."""

    name: str
    summary: str
    parameters: type[Any]
    build: Callable[[Any], nn.Module]


@dataclass(frozen=True)
class Transform:
    """From stored rows to network input: (x · scale − mean) / std, per channel or feature.

    ``mean`` and ``std`` hold one number, or one per channel (per feature of a table).
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class Classifier(nn.Module):
    """A network with its input transform; takes raw rows, gives logits (n, classes).

    The transform runs on the device. It is configuration, not weights: the checkpoint of a model
    is ``classifier.network.state_dict()``.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, transform: Transform) -> None:
        super().__init__()
        _check(transform)
        self.network = network
        self.transform = transform
        std = torch.tensor(transform.std, dtype=torch.float64)
        mean = torch.tensor(transform.mean, dtype=torch.float64)
        # One multiplication and one subtraction: x·(scale/std) − mean/std.
        self.register_buffer("factor", (transform.scale / std).float(), persistent=False)
        self.register_buffer("shift", (mean / std).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of ``x`` (n, *shape), uint8 or floating.

        Channels, or features, are in dimension 1.
        """
        shape = (1, -1) + (1,) * (x.dim() - 2)
        x = x.to(self.factor.dtype) if not x.is_floating_point() else x
        logits: Tensor = self.network(x * self.factor.view(shape) - self.shift.view(shape))
        return logits


def names() -> list[str]:
    """Return the names of the architectures that can be used, in alphabetical order."""
    return sorted({*_ours(), *_installed()})


def get(name: str) -> Architecture:
    """Return the architecture called ``name``; raise ``UnknownName`` with the names there are."""
    module = _module(name)
    return Architecture(
        name=name,
        summary=(module.__doc__ or "").strip().partition("\n")[0],
        parameters=module.Parameters,
        build=module.build,
    )


def classifier(
    name: str,
    parameters: Mapping[str, Any] | Any,
    transform: Transform,
    *,
    generator: torch.Generator | None = None,
) -> Classifier:
    """Return an untrained classifier; the same ``generator`` state gives the same weights."""
    architecture = get(name)
    parsed = options.parse(architecture.parameters, parameters)
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator))
    # torch.nn.init draws from the global generator: borrow it and give it back untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(parsed)
    return Classifier(network, transform)


def parameter_spec(
    name: str, parameters: Mapping[str, Any] | Any
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return name → (shape, dtype such as ``"float32"``) of each tensor of a checkpoint."""
    architecture = get(name)
    parsed = options.parse(architecture.parameters, parameters)
    with torch.device("meta"):
        state = architecture.build(parsed).state_dict()
    return {key: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in state.items()}


def ties(network: nn.Module) -> list[list[str]]:
    """Return names of ``network``'s state that stand for one tensor, grouped and sorted."""
    shared: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), []).append(name)
    return sorted(sorted(names) for names in shared.values() if len(names) > 1)


def _module(name: str) -> ModuleType:
    # Our own files come first: an installed package may add a name, never replace one.
    if name in _ours():
        return importlib.import_module(f"{__name__}.{name}")
    if name not in (installed := _installed()):
        raise UnknownName(f"no architecture is called {name!r}; there are: {', '.join(names())}")
    module = installed[name].load()
    if not isinstance(module, ModuleType) or not {"Parameters", "build"} <= set(dir(module)):
        raise UnknownName(
            f"the entry point {name!r} must be a module that defines Parameters and build"
        )
    return module


def _ours() -> set[str]:
    return {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}


def _installed() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def _check(transform: Transform) -> None:
    if min(transform.std, default=0.0) <= 0:
        raise WrongOptions("every std of the input transform must be above zero")
    sizes = {len(transform.mean), len(transform.std)} - {1}
    if len(sizes) > 1 or not transform.mean:
        raise WrongOptions("mean and std of the input transform need one number per channel")
