"""Features that an encoder makes of texts, computed once when a source is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import StringConstraints

from unlearning.inputs._contract import Input


@dataclass(frozen=True)
class Options:
    """The encoder by its digest, and what is made of a text's tokens."""

    #: Digest of the encoder: GET /v1/encoders lists those there are.
    encoder: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    #: Number of tokens of a text, with those that the tokenizer adds at the ends; longer texts are
    #: truncated.
    max_length: Annotated[int, Ge(2), Le(4096)] = 128
    #: ``mean`` of a text's tokens, or its ``first`` token.
    pooling: Literal["mean", "first"] = "mean"
    #: Divide each row by its norm; closed-form heads then have room for more rows.
    normalise: bool = True
    #: SHA-256 of the encoder's tokenizer; left out: as the encoder has it.
    tokenizer: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class Features(Input[Options]):
    """Numbers as they are, without the texts or their tokens."""

    options = Options
    axes = ("features",)
    dtypes = ("float32",)
    scales = {"float32": 1.0}  # noqa: RUF012 - constant
    decides = ("inputs",)
    files = {"encoder": "encoders"}  # noqa: RUF012 - constant

    def parameters(self, shape: Sequence[int], options: Options) -> dict[str, int]:
        """Return the number of features."""
        return {"inputs": shape[0]}


INPUT = Features()
