"""Ask what an installation can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction

Kind = Literal["method", "architecture", "recipe", "criteria", "gate", "input"]


@dataclass(frozen=True)
class Announcement(Struct):
    """A capability of a worker; ``options_schema`` is the JSON schema of its options.

    ``details`` of a method: ``forgets`` (list of ``records``, ``class``), ``guarantee`` (``exact``,
    ``certified`` or ``empirical``), ``cost`` (``step`` or ``training``) and ``needs`` ({``anchor``,
    ``update_log`` or ``statistics``: the kinds of forgetting that need it}); of an architecture:
    ``default_method`` and ``recipe`` (options that its models have in place of the defaults), if it
    has them; of a gate: ``concern``, ``metric``,
    ``needs``, ``direction`` and ``disclosure``; of a kind of input: ``axes`` of a row, ``dtypes``
    in the store, ``scales`` (by dtype) and the parameters of an architecture that it ``decides``.
    """

    kind: Kind
    name: str
    summary: str
    options_schema: dict[str, Any]
    code_version: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request(Struct):
    """An empty request."""


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """Everything that is installed.

    ``refused`` gives the reason for each installed method, architecture, trainer, kind of input and
    gate that cannot be used.
    """

    announcements: list[Announcement]
    refused: list[str]


CATALOGUE = Operation("catalogue", Request, Answer, Fraction)
