"""Every file beside this one is an unlearning method; the file's name is the method's name.

A method file defines

- ``FORGETS``: the kinds of forgetting it can do, a subset of ``{"records", "class"}``;
- ``GUARANTEE``: ``"exact"`` (retraining only) or ``"empirical"``;
- ``COST``: ``"training"`` where it makes epochs over retained rows, else ``"step"``: batches of a
  method that trains never stand before another model's step;
- ``Options``: a frozen dataclass of its settings, constrained with ``annotated_types``;
- ``unlearn(model, forget, retain, *, options, context, generator) -> Update``.

Adding a method is adding a file: there is no list to edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unlearning.errors import UnknownName
from unlearning.methods._contract import Context, Update

__all__ = ["Context", "Method", "Update", "get", "names"]


@dataclass(frozen=True)
class Method:
    """One unlearning method as its file declares it."""

    name: str
    summary: str
    forgets: frozenset[str]
    guarantee: str
    cost: str
    options: type[Any]
    unlearn: Callable[..., Update]


def names() -> list[str]:
    """Return the names of the installed methods, in alphabetical order, without importing them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> Method:
    """Return the method called ``name``; raise ``UnknownName`` with the names there are."""
    if name not in names():
        raise UnknownName(f"no method is called {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    return Method(
        name=name,
        summary=(module.__doc__ or "").strip().partition("\n")[0],
        forgets=frozenset(module.FORGETS),
        guarantee=module.GUARANTEE,
        cost=module.COST,
        options=module.Options,
        unlearn=module.unlearn,
    )
