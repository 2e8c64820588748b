"""Training code of other packages, in place of the recipe that the service follows.

A package declares an entry point in the group ``unlearning.trainers`` whose value is a module; the
entry point's name is the trainer's. The module defines

- ``Options``: a frozen dataclass of its settings with defaults, constrained with
  ``annotated_types``;
- ``train(task, rows, *, seed, progress, options) -> {name: tensor}``: the weights of ``task.model``
  trained on ``rows`` (``_contract.Task``, ``_contract.Rows``).

A model whose recipe names a trainer is trained by it wherever it is trained: training runs,
retrains, models for margins, reference models. Only installed packages are searched: an import path
never comes from a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearning.core import options
from unlearning.core.plugins import Group
from unlearning.core.recipe import Recipe
from unlearning.errors import UnknownName, WrongOptions
from unlearning.trainers import _declaration
from unlearning.trainers._contract import Rows, Task
from unlearning.trainers._declaration import Trainer
from unlearning.trainers._own import Own

__all__ = ["Own", "Rows", "Task", "Trainer", "get", "installed", "names", "recipe"]

_GROUP = Group("unlearning.trainers", "trainer", _declaration.read)

names, installed = _GROUP.names, _GROUP.installed


def get(name: str) -> Trainer:
    """Return the trainer called ``name``; raise ``UnknownName`` that says what to do."""
    try:
        return _GROUP.get(name)
    except UnknownName as error:
        raise UnknownName(f"{error}; install its package where the workers run") from None


def recipe(given: Mapping[str, Any]) -> Recipe | Own:
    """Return the recipe with these options, or, with a ``trainer`` among them, that trainer's."""
    if "trainer" not in given:
        return options.parse(Recipe, given)
    stated = dict(given)
    name = stated.pop("trainer")
    if not isinstance(name, str):
        raise WrongOptions("recipe.trainer must be the name of a trainer")
    trainer = get(name)
    return Own(trainer.name, trainer.train, options.parse(trainer.options, stated))
