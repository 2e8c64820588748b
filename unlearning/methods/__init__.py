"""Every file beside this one is an unlearning method; the file's name is the method's name.

A method declares its properties in its own file; no other code refers to it by name:

- ``FORGETS``: the kinds of forgetting that it can do, out of ``records`` and ``class``;
- ``GUARANTEE``: ``exact`` (the weights are those of a training on the retained rows alone),
  ``certified`` (each update has a ``certificate``, which proves that they are within a bound of
  those) or ``empirical`` (measured, not proven); the first two set ``Update.is_anchor``;
- ``COST``: ``training`` if it makes epochs over retained rows, else ``step``; a batch whose method
  trains never delays another model's step;
- ``NEEDS``, omitted if empty: {need: kinds of forgetting that need it}, out of
  ``anchor`` (its prepared cache), ``update_log`` (kept while the anchor was trained) and
  ``statistics`` (the sums from which the base version was solved, unlearning.heads);
- ``Options``: a frozen dataclass of its settings, constrained with ``annotated_types``;
- ``unlearn(model, forget, retain, *, options, context, generator) -> Update``.

A package of your own adds a method by declaring an entry point in the group ``unlearning.methods``
whose value is such a module. Only installed packages are searched: an import path never comes from
a request.
"""

from __future__ import annotations

from unlearning.core.plugins import Group, Installed
from unlearning.methods import _declaration
from unlearning.methods._contract import Context, Update
from unlearning.methods._declaration import Method

__all__ = ["Context", "Installed", "Method", "Update", "get", "installed", "names"]

_GROUP = Group("unlearning.methods", "method", _declaration.read)

names, get, installed = _GROUP.names, _GROUP.get, _GROUP.installed
