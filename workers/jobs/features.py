"""Features: rows that an encoder makes of texts while their source is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.registry import choices, encoders
from service.messages.encode import ENCODE, Answer, Request
from unlearning import inputs
from workers.compute import process
from workers.compute.process import ComputeDied, ComputeFailed
from workers.jobs import tokenizers
from workers.readers import ReadError
from workers.runtime import Runtime

#: Rows of one request to the compute process.
ROWS_AT_ONCE = 256
#: Attempts of a request of which the machine may be why it failed.
ATTEMPTS = 3


def of_input(
    runtime: Runtime, given: Mapping[str, Any], *, held: leases.Held | None
) -> dict[str, Any] | None:
    """Return arguments of ``read_into_store`` for a kind that an encoder makes; None for others.

    The source is read as texts, with the encoder's tokenizer. Raise ``ReadError`` if the encoder
    is not there. ``held`` is the lease that is renewed meanwhile, if there is one.
    """
    stated = given.get("options") or {}
    with runtime.session() as session:
        named = choices.input_files(db.read_only(session), given["name"])
        option = next((one for one, kind in named.items() if kind == encoders.KIND), None)
        if option is None:
            return None
        known = encoders.of_digest(session, stated[option])
    if not known or known[0].tokenizer_digest is None:
        raise ReadError("the encoder of this source is not there; add it to POST /v1/encoders")
    tokenizer, facts = known[0].tokenizer_digest, known[0].facts or {}
    kind, pad = inputs.kind(given["name"], {**stated, "tokenizer": tokenizer}), facts["pad"]
    if kind.options.max_length > facts["length"]:
        raise ReadError(
            f"the encoder takes at most {facts['length']} tokens, and max_length is "
            f"{kind.options.max_length}; lower input.options.max_length"
        )
    texts = {"tokenizer": tokenizer, "max_length": kind.options.max_length, "pad": pad}
    return {
        "input": {"name": "text", "options": texts},
        "files": {"tokenizer": tokenizers.load(runtime, tokenizer)},
        "encode": Encode(runtime, held, kind, pad),
    }


@dataclass(frozen=True)
class Encode:
    """See ``reading.Encode``; ``pad`` is the token id that fills rows up."""

    runtime: Runtime
    held: leases.Held | None
    kind: inputs.Kind
    pad: int

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the features (k, width) float32 of token ids (k, length)."""
        made = []
        for first in range(0, len(x), ROWS_AT_ONCE):
            made += self._asked([row[row != self.pad].tolist() for row in x[first:][:ROWS_AT_ONCE]])
        return np.array(made, np.float32)

    def facts(self, shape: Sequence[int]) -> Mapping[str, Any]:
        """Return the facts of rows of features."""
        return inputs.facts(self.kind, shape, "float32")

    def _asked(self, rows: list[list[int]]) -> list[list[float]]:
        options = self.kind.options
        request = Request(
            store=self.runtime.store.ticket(),
            encoder=options.encoder,
            pooling=options.pooling,
            normalise=options.normalise,
            rows=rows,
        )
        attempts = 0
        while True:
            attempts += 1
            try:
                return self._answer(request).features
            except (ComputeFailed, ComputeDied) as failed:
                if attempts < ATTEMPTS and process.may_pass(failed):
                    continue
                raise ReadError(
                    f"the encoder cannot be run on the texts: {failed.detail}"
                ) from None

    def _answer(self, request: Request) -> Answer:
        limit = self.runtime.settings.batch_timeout_seconds
        if self.held is None:
            return self.runtime.compute.call(ENCODE, request, timeout_seconds=limit)
        return self.runtime.ask(ENCODE, request, held=self.held, timeout_seconds=limit)
