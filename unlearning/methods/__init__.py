"""Every file beside this one is an unlearning method; the file's name is the method's name.

A method says what it is in its own file, and nobody else knows it by its name:

- ``FORGETS``: the kinds of forgetting that it can do, out of ``records`` and ``class``;
- ``GUARANTEE``: ``exact`` (the weights are those of a training on the retained rows alone, and
  ``Update.is_anchor`` is set), ``certified`` (within a proven bound of them) or ``empirical``;
- ``COST``: ``training`` where it makes epochs over retained rows, else ``step``: batches of a
  method that trains never stand before another model's step;
- ``NEEDS``, left out where there is nothing: {need: kinds of forgetting that need it}, out of
  ``anchor`` (its prepared cache) and ``update_log`` (kept while the anchor was trained);
- ``Options``: a frozen dataclass of its settings, constrained with ``annotated_types``;
- ``unlearn(model, forget, retain, *, options, context, generator) -> Update``.

A package of your own adds a method by declaring an entry point in the group ``unlearning.methods``
whose value is such a module. Only installed packages are looked at: an import path never comes from
a request.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from unlearning.errors import BadDeclaration, UnknownName
from unlearning.methods import _declaration
from unlearning.methods._contract import Context, Update
from unlearning.methods._declaration import Method

__all__ = ["GROUP", "Context", "Installed", "Method", "Update", "get", "installed", "names"]

GROUP = "unlearning.methods"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Installed:
    """The methods that can be used, by name, and for each other entry point why it cannot."""

    methods: tuple[Method, ...]
    refused: tuple[str, ...]


def names() -> list[str]:
    """Return the names of the installed methods, in alphabetical order, without importing them."""
    return sorted({*_ours(), *_others()})


def get(name: str) -> Method:
    """Return the method called ``name``.

    ``UnknownName`` names those that there are; ``BadDeclaration`` says what is wrong with it.
    """
    # Our own files come first: an installed package may add a name, never replace one.
    if name in _ours():
        return _declaration.read(name, importlib.import_module(f"{__name__}.{name}"))
    if name not in (others := _others()):
        raise UnknownName(f"no method is called {name!r}; there are: {', '.join(names())}")
    return _theirs(name, others[name])


def installed() -> Installed:
    """Return every method that can be used, and why the others are left out."""
    found = [get(name) for name in sorted(_ours())]
    refused = []
    for name, points in sorted(_others().items()):
        try:
            found.append(_theirs(name, points))
        except BadDeclaration as error:
            refused.append(str(error))
    return Installed(tuple(sorted(found, key=lambda one: one.name)), tuple(refused))


def _theirs(name: str, points: Sequence[metadata.EntryPoint]) -> Method:
    """Return the method of an installed package; raise ``BadDeclaration`` with the package."""
    packages = ", ".join(sorted(_package(point) for point in points))
    try:
        if name in _ours():
            raise BadDeclaration("a method of the service has this name; give it another")
        if len(points) > 1:
            raise BadDeclaration("each of these packages declares it; keep one of them")
        if not _NAME.fullmatch(name):
            raise BadDeclaration(
                "a name is a letter, then letters, digits or _, all small, 64 at most"
            )
        return _declaration.read(name, _load(points[0]))
    except BadDeclaration as error:
        raise BadDeclaration(f"the method {name!r} of {packages} is left out: {error}") from None


def _load(point: metadata.EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # whatever somebody's module raises while it is imported
        raise BadDeclaration(
            f"its module cannot be imported ({type(error).__name__}: {error})"
        ) from error


def _package(point: metadata.EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _ours() -> set[str]:
    return {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}


def _others() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found
