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
class Texts(Struct):
    """Rows of at most ``length`` of ``vocabulary`` token ids, filled up with ``pad``."""

    vocabulary: int
    length: int
    pad: int


@dataclass(frozen=True, kw_only=True)
class Images(Struct):
    """The size to which images are brought."""

    channels: int
    image_height: int
    image_width: int


@dataclass(frozen=True, kw_only=True)
class Answer(Struct):
    """``width`` numbers for each token; ``texts`` or ``images``: what the encoder takes."""

    kind: str
    width: int
    layers: int
    parameters: int
    texts: Texts | None
    images: Images | None


ENCODER = Operation("encoder", Request, Answer, Fraction)
