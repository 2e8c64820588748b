"""Ask whether an encoder's files can be used, and what the encoder is."""

from __future__ import annotations

from dataclasses import dataclass

from service.messages.operation import Operation, Struct
from service.messages.parts import Fraction, Ticket


@dataclass(frozen=True, kw_only=True)
class Request(Struct):
    """The digest of its description in the store, which names its other files."""

    store: Ticket
    digest: str


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """``width`` numbers for each token; rows of at most ``length`` of ``vocabulary`` token ids.

    ``pad`` is the token id that its tokenizer fills rows up with.
    """

    kind: str
    width: int
    layers: int
    vocabulary: int
    length: int
    parameters: int
    pad: int


ENCODER = Operation("encoder", Request, Answer, Fraction)
