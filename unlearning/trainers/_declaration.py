"""The declaration of a trainer in its own module, checked before it is used."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from unlearning.core import declarations
from unlearning.errors import BadDeclaration

#: The name under which the recipe of the service is announced.
RESERVED = "default"


@dataclass(frozen=True)
class Trainer:
    """One trainer as its module declares it."""

    name: str
    summary: str
    options: type[Any]
    train: Callable[..., Mapping[str, Tensor]]


def read(name: str, module: ModuleType) -> Trainer:
    """Return the trainer that ``module`` declares; raise ``BadDeclaration`` if it is wrong."""
    if name == RESERVED:
        raise BadDeclaration("the service's own recipe has this name: give it another")
    declarations.require(module, ("Options", "train"))
    _check_call(module.train)
    _check_options(module.Options)
    return Trainer(
        name=name,
        summary=declarations.summary(module),
        options=module.Options,
        train=module.train,
    )


def _check_call(train: Any) -> None:
    try:
        inspect.signature(train).bind(None, None, seed=0, progress=None, options=None)
    except (TypeError, ValueError):
        raise BadDeclaration(
            "train must be called as train(task, rows, seed=, progress=, options=)"
        ) from None


def _check_options(kind: Any) -> None:
    declarations.check_options(kind)
    if "trainer" in {field.name for field in dataclasses.fields(kind)}:
        raise BadDeclaration("no option may be called trainer: it names the trainer in a recipe")
