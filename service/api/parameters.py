"""Query parameters and headers: each must be known to the endpoint and be given once.

If an unknown parameter were ignored, or the last of two used, the answer would be to another
question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from fastapi import Request
from fastapi.dependencies.models import Dependant

from service.errors import ServiceError, Unprocessable

#: Headers that affect every call, whether or not the endpoint declares them.
SINGLE = ("authorization", "content-length", "content-type", "host", "idempotency-key")

MAX_NAMED = 20

Name = TypeVar("Name", str, bytes)


class RepeatedHeader(ServiceError):
    """A header with a single value was sent twice."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "repeated-header"
    title: ClassVar[str] = "A header is given more than once"


@dataclass(frozen=True)
class Parameters:
    """What one endpoint reads of a request besides its path and body."""

    queries: frozenset[str]
    headers: frozenset[str]

    @classmethod
    def of(cls, dependant: Dependant) -> Self:
        """Return the parameters of an endpoint and of all its dependencies."""
        parts = list(_parts(dependant))
        queries = {field.alias for part in parts for field in part.query_params}
        headers = {field.alias.lower() for part in parts for field in part.header_params}
        return cls(frozenset(queries), frozenset(headers.union(SINGLE)))

    def check(self, request: Request) -> None:
        """Raise a 400 for a repeated header, a 422 for an unknown or repeated query parameter."""
        names = [name for name, _ in request.scope["headers"]]
        repeated = {name.decode("latin-1").lower() for name in _repeated(names)}
        wrong = sorted(repeated & self.headers)
        if wrong:
            raise RepeatedHeader(f"send {' and '.join(wrong)} once, with one value")
        if request.scope["query_string"]:
            self._check_query([name for name, _ in request.query_params.multi_items()])

    def _check_query(self, asked: Sequence[str]) -> None:
        reasons = dict.fromkeys(_repeated(asked), _REPEATED)
        reasons |= {name: _UNKNOWN for name in asked if name not in self.queries}
        if reasons:
            raise Unprocessable(
                "some query parameters are invalid; correct those that `fields` names",
                # An unknown name may be a person's identity, so it is not quoted.
                fields=[
                    {"field": f"query.{name if name in self.queries else '(…)'}", "reason": reason}
                    for name, reason in list(reasons.items())[:MAX_NAMED]
                ],
            )


_UNKNOWN = "this endpoint knows no such query parameter; /openapi.json lists those that it reads"
_REPEATED = "give it once"


def depends_on(dependant: Dependant, call: Callable[..., Any]) -> bool:
    """Return whether an endpoint depends on ``call``, directly or indirectly."""
    return any(part.call is call for part in _parts(dependant))


def _parts(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for one in dependant.dependencies:
        yield from _parts(one)


def _repeated(names: Sequence[Name]) -> set[Name]:
    if len(set(names)) == len(names):
        return set()
    return {name for name, times in Counter(names).items() if times > 1}
