"""The declaration of a method in its own file, checked before it is used."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from unlearning.core import declarations
from unlearning.core.determinism import deterministic
from unlearning.errors import BadDeclaration
from unlearning.methods._contract import Update

#: Kinds of forgetting.
KINDS = ("records", "class")
#: ``exact``: the weights are those of a training on the retained rows alone; ``certified``: they
#: are within a bound of those, which the certificate of each update proves; ``empirical``:
#: measured, not proven.
GUARANTEES = ("exact", "certified", "empirical")
#: ``training``: makes epochs over retained rows, or takes as long; ``step``: anything else.
COSTS = ("step", "training")
#: What the service keeps for methods: the prepared cache of the anchor; the log of its training;
#: the sums from which the base version was solved.
NEEDS = ("anchor", "update_log", "statistics")


@dataclass(frozen=True)
class Method:
    """One unlearning method as its file declares it."""

    name: str
    summary: str
    forgets: frozenset[str]
    guarantee: str
    cost: str
    #: What it requires, with the kinds of forgetting for which it does.
    needs: Mapping[str, frozenset[str]]
    options: type[Any]
    unlearn: Callable[..., Update]

    @property
    def exact(self) -> bool:
        """Return whether the result cannot depend on the rows that it forgets."""
        return self.guarantee == "exact"

    @property
    def anew(self) -> bool:
        """Return whether the result is that of a training on the retained rows, or proven near it.

        Then a new chain begins with it.
        """
        return self.guarantee in ("exact", "certified")

    def requires(self, need: str, kind: str) -> bool:
        """Return whether it needs this for that kind of forgetting."""
        return kind in self.needs.get(need, ())


def read(name: str, module: ModuleType) -> Method:
    """Return the method that ``module`` declares; raise ``BadDeclaration`` if it is wrong."""
    wanted = ("FORGETS", "GUARANTEE", "COST", "Options", "unlearn")
    declarations.require(module, wanted)
    forgets = _words("FORGETS", module.FORGETS, KINDS)
    if not forgets:
        raise BadDeclaration(f"FORGETS must name at least one of {', '.join(KINDS)}")
    _check_call(module.unlearn)
    declarations.check_options(module.Options)
    return Method(
        name=name,
        summary=declarations.summary(module),
        forgets=forgets,
        guarantee=_word("GUARANTEE", module.GUARANTEE, GUARANTEES),
        cost=_word("COST", module.COST, COSTS),
        needs=_needs(module, forgets),
        options=module.Options,
        unlearn=deterministic()(module.unlearn),
    )


def _word(where: str, given: Any, known: Collection[str]) -> str:
    if not isinstance(given, str) or given not in known:
        raise BadDeclaration(f"{where} is {given!r} and must be one of {', '.join(known)}")
    return given


def _words(where: str, given: Any, known: Collection[str]) -> frozenset[str]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise BadDeclaration(f"{where} is {given!r} and must be a set out of {', '.join(known)}")
    return frozenset(_word(where, one, known) for one in given)


def _needs(module: ModuleType, forgets: frozenset[str]) -> Mapping[str, frozenset[str]]:
    given = getattr(module, "NEEDS", {})
    if not isinstance(given, Mapping):
        raise BadDeclaration(f"NEEDS is {given!r} and must be {{need: kinds of forgetting}}")
    return {
        _word("NEEDS", need, NEEDS): _words(f"NEEDS[{need!r}]", kinds, sorted(forgets))
        for need, kinds in given.items()
    }


def _check_call(unlearn: Any) -> None:
    try:
        inspect.signature(unlearn).bind(
            None, None, None, options=None, context=None, generator=None
        )
    except (TypeError, ValueError):
        raise BadDeclaration(
            "unlearn must be called as "
            "unlearn(model, forget, retain, options=, context=, generator=)"
        ) from None
