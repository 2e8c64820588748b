"""Every file beside this one is an architecture; the file's name is the architecture's name.

An architecture file defines

- ``Parameters``: a frozen dataclass, constrained with ``annotated_types``;
- ``build(parameters) -> nn.Module``: the untrained network. It is called with what the kind of
  input of its dataset makes of the stored rows (``unlearning.inputs``): images and tables come as
  transformed floats. The service fills in parameters whose names a kind of input decides;
- ``FILES``, omitted if there are none: parameters that name a file by its digest, and the kind of
  each. ``build`` then takes what was made of the files, by parameter, as its second argument;
- ``DEFAULT_METHOD``, omitted if there is none: the unlearning method of models whose policy names
  no other;
- ``RECIPE``, omitted if there is none: options of the recipe of models whose own recipe names no
  optimiser, in place of the general defaults.

A network that is a ``LinearHead`` is fitted to its minimum; all others are trained by epochs.

A package of your own adds an architecture by declaring an entry point in the group
``unlearning.architectures`` whose value is such a module. Only installed packages are searched: an
import path never comes from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import nn

from unlearning.architectures._classifier import Classifier, Transform
from unlearning.architectures._encoders import Encoder, ImageEncoder, TextEncoder
from unlearning.architectures._encoders import opened as encoder
from unlearning.architectures._heads import (
    OF_HEAD,
    HeadClassifier,
    LogisticClassifier,
    RidgeClassifier,
)
from unlearning.architectures._trained_part import EncoderNetwork
from unlearning.core import declarations, options
from unlearning.core.plugins import Group
from unlearning.core.recipe import Recipe
from unlearning.errors import BadDeclaration, WrongOptions
from unlearning.heads.linear import LinearHead
from unlearning.inputs import Kind

__all__ = [
    "Architecture",
    "Classifier",
    "Encoder",
    "EncoderNetwork",
    "HeadClassifier",
    "ImageEncoder",
    "LogisticClassifier",
    "RidgeClassifier",
    "TextEncoder",
    "Transform",
    "classifier",
    "encoder",
    "get",
    "installed",
    "names",
    "parameter_spec",
    "ties",
]


@dataclass(frozen=True)
class Architecture:
    """One architecture as its module declares it."""

    name: str
    summary: str
    parameters: type[Any]
    build: Callable[..., nn.Module]
    #: The method that its models use unless their policy names another.
    default_method: str | None = None
    #: Options of the recipe that its models have unless their own recipe names an optimiser.
    recipe: Mapping[str, Any] = field(default_factory=dict)
    #: Parameters that name a file by its digest, and the kind of each.
    files: Mapping[str, str] = field(default_factory=dict)

    def network(self, parsed: Any, files: Mapping[str, Any]) -> nn.Module:
        """Return the untrained network; ``files`` has what was made of its files, by parameter."""
        return self.build(parsed, files) if self.files else self.build(parsed)


def classifier(
    name: str,
    parameters: Mapping[str, Any] | Any,
    transform: Transform | None,
    *,
    kind: Kind | None = None,
    generator: torch.Generator | None = None,
    files: Mapping[str, Any] = MappingProxyType({}),
) -> Classifier:
    """Return an untrained classifier; the same ``generator`` state gives the same weights.

    ``files`` has what was made of the files that parameters name, by parameter.
    """
    architecture = get(name)
    parsed = options.parse(architecture.parameters, parameters)
    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator))
    # torch.nn.init draws from the global generator, which is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = architecture.network(parsed, files)
    if isinstance(network, LinearHead):
        return OF_HEAD[type(network)](network, transform, kind)
    return Classifier(network, transform, kind)


def parameter_spec(
    name: str,
    parameters: Mapping[str, Any] | Any,
    files: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return name → (shape, dtype such as ``"float32"``) of each tensor of a checkpoint."""
    architecture = get(name)
    parsed = options.parse(architecture.parameters, parameters)
    with torch.device("meta"):
        state = architecture.network(parsed, files).state_dict()
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
    recipe = getattr(module, "RECIPE", {})
    if not isinstance(recipe, Mapping):
        raise BadDeclaration("its RECIPE is none: it must be a dict of options")
    try:
        options.parse(Recipe, recipe)
    except WrongOptions as error:
        raise BadDeclaration(f"its RECIPE is none: {error}") from None
    files = getattr(module, "FILES", {})
    if not isinstance(files, Mapping) or not set(files.values()) <= {"encoders"}:
        raise BadDeclaration("its FILES must be a dict from parameters to kinds of files: encoders")
    return Architecture(
        name=name,
        summary=declarations.summary(module),
        parameters=module.Parameters,
        build=module.build,
        default_method=getattr(module, "DEFAULT_METHOD", None),
        recipe=recipe,
        files=files,
    )


_GROUP = Group(
    "unlearning.architectures", "architecture", _read, spelling=r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
)

names, get, installed = _GROUP.names, _GROUP.get, _GROUP.installed
