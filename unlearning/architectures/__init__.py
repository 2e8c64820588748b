"""Every file beside this one is an architecture; the file's name is the architecture's name.

An architecture file defines

- ``Parameters``: a frozen dataclass, constrained with ``annotated_types``;
- ``build(parameters) -> nn.Module``: the untrained network. It is called with what the kind of
  input of its dataset makes of the stored rows (``unlearning.inputs``): images and tables come as
  transformed floats. The service fills in parameters whose names a kind of input decides.

A package of your own adds an architecture by declaring an entry point in the group
``unlearning.architectures`` whose value is such a module. Only installed packages are searched: an
import path never comes from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.core import options
from unlearning.core.plugins import Group
from unlearning.errors import BadDeclaration, WrongOptions
from unlearning.inputs import Kind


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
    """A network with its input transform; takes stored rows, returns logits (n, classes).

    The transform runs on the device. It is configuration, not weights: the checkpoint of a model
    is ``classifier.network.state_dict()``. Without a ``kind`` of input the network is called with
    the transformed rows; without a ``transform`` the kind receives them as stored.
    """

    factor: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, transform: Transform | None, kind: Kind | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.transform = transform
        self.kind = kind
        if transform is None:
            return
        _check(transform)
        std = torch.tensor(transform.std, dtype=torch.float64)
        mean = torch.tensor(transform.mean, dtype=torch.float64)
        # One multiplication and one subtraction: x·(scale/std) − mean/std.
        self.register_buffer("factor", (transform.scale / std).float(), persistent=False)
        self.register_buffer("shift", (mean / std).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of ``x`` (n, *shape), as it is stored or floating.

        Channels, or features, are in dimension 1.
        """
        if self.transform is not None:
            shape = (1, -1) + (1,) * (x.dim() - 2)
            x = x.to(self.factor.dtype) if not x.is_floating_point() else x
            x = x * self.factor.view(shape) - self.shift.view(shape)
        given = (x,) if self.kind is None else self.kind.input.collate(x, self.kind.options)
        logits: Tensor = self.network(*given)
        return logits


def classifier(
    name: str,
    parameters: Mapping[str, Any] | Any,
    transform: Transform | None,
    *,
    kind: Kind | None = None,
    generator: torch.Generator | None = None,
) -> Classifier:
    """Return an untrained classifier; the same ``generator`` state gives the same weights."""
    architecture = get(name)
    parsed = options.parse(architecture.parameters, parameters)
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator))
    # torch.nn.init draws from the global generator, which is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.build(parsed)
    return Classifier(network, transform, kind)


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
    """Return names of ``network``'s state that are one tensor, grouped and sorted."""
    shared: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), []).append(name)
    return sorted(sorted(names) for names in shared.values() if len(names) > 1)


def _read(name: str, module: ModuleType) -> Architecture:
    if not {"Parameters", "build"} <= set(dir(module)):
        raise BadDeclaration("it must be a module that defines Parameters and build")
    return Architecture(
        name=name,
        summary=(module.__doc__ or "").strip().partition("\n")[0],
        parameters=module.Parameters,
        build=module.build,
    )


_GROUP = Group(
    "unlearning.architectures", "architecture", _read, spelling=r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)

names, get, installed = _GROUP.names, _GROUP.get, _GROUP.installed


def _check(transform: Transform) -> None:
    if min(transform.std, default=0.0) <= 0:
        raise WrongOptions("every std of the input transform must be above zero")
    sizes = {len(transform.mean), len(transform.std)} - {1}
    if len(sizes) > 1 or not transform.mean:
        raise WrongOptions("mean and std of the input transform need one number per channel")
