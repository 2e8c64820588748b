"""Plug-in modules of one kind: files of a package of ours, and entry points of other packages."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Generic, TypeVar

from unlearning.errors import BadDeclaration, UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Installed(Generic[T]):
    """Usable plug-ins by name in alphabetical order, and for each other one why it is not."""

    found: dict[str, T]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Group(Generic[T]):
    """The modules of ``package``, and those declared as entry points of a group.

    Our own take precedence: an installed package may add a name, never replace one. Only installed
    packages are searched: an import path never comes from a request.
    """

    package: str
    #: The kind of plug-in, for messages.
    word: str
    #: Reads the declaration of a named module; raises ``BadDeclaration`` if it is wrong.
    read: Callable[[str, ModuleType], T]
    #: Raises ``BadDeclaration`` if a plug-in of another package conflicts with those before it.
    fits: Callable[[T, Collection[T]], None] = lambda _made, _beside: None
    #: Form of the names in installed packages.
    spelling: str = r"[a-z][a-z0-9_]{0,63}"
    #: Name of the group of entry points; empty: that of the package.
    entry_points: str = ""

    def names(self) -> list[str]:
        """Return all names in alphabetical order, without importing a module."""
        return sorted({*self._ours(), *self._others()})

    def get(self, name: str) -> T:
        """Return the plug-in called ``name``.

        Raise ``UnknownName`` with the names that exist, or ``BadDeclaration`` if it is wrong.
        """
        if name in self._ours():
            return self.read(name, importlib.import_module(f"{self.package}.{name}"))
        if name not in (others := self._others()):
            there = ", ".join(self.names())
            raise UnknownName(f"no {self.word} is called {name!r}; there are: {there}")
        return self._theirs(name, others[name])

    def installed(self) -> Installed[T]:
        """Return all that can be used, and why the others cannot."""
        found = {name: self.get(name) for name in self._ours()}
        refused = []
        for name, points in sorted(self._others().items()):
            try:
                found[name] = self._theirs(name, points, beside=found.values())
            except BadDeclaration as error:
                refused.append(str(error))
        return Installed(dict(sorted(found.items())), tuple(refused))

    def _theirs(
        self, name: str, points: Sequence[metadata.EntryPoint], *, beside: Collection[T] = ()
    ) -> T:
        try:
            if name in self._ours():
                raise BadDeclaration("the service has one of this name: give it another")
            if len(points) > 1:
                raise BadDeclaration("each of these packages declares it: keep one of them")
            if not re.fullmatch(self.spelling, name):
                raise BadDeclaration(f"its name must be of the form {self.spelling}")
            made = self.read(name, _load(points[0]))
            self.fits(made, beside)
            return made
        except BadDeclaration as error:
            packages = ", ".join(sorted(_package(point) for point in points))
            raise BadDeclaration(
                f"the {self.word} {name!r} of {packages} is left out: {error}"
            ) from None

    def _ours(self) -> list[str]:
        where = importlib.import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(where) if not m.name.startswith("_"))

    def _others(self) -> dict[str, list[metadata.EntryPoint]]:
        found: dict[str, list[metadata.EntryPoint]] = {}
        for point in metadata.entry_points(group=self.entry_points or self.package):
            if point.value != f"{self.package}.{point.name}":
                found.setdefault(point.name, []).append(point)
        return found


def _load(point: metadata.EntryPoint) -> ModuleType:
    try:
        found = point.load()
    except Exception as error:  # importing a module of another package may raise anything
        raise BadDeclaration(
            f"its module cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(found, ModuleType):
        raise BadDeclaration("its entry point must be a module")
    return found


def _package(point: metadata.EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
