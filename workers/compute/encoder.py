"""Check an encoder's files: build it, and compare it with its weights and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable

from models_store import Store
from service.messages.encoder import Answer, Request
from service.messages.parts import Fraction
from unlearning import inputs
from unlearning.architectures import Encoder
from unlearning.errors import WrongOptions
from workers.compute import files
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return what the encoder is; raise ``WrongOptions`` if its files do not fit each other."""
    store = place.store(request.store)
    described = files.description(store, request.digest)
    encoder = files.encoder(store, request.digest)
    pad = _pad(store, described.tokenizer, encoder)
    return Answer(
        kind=encoder.kind,
        width=encoder.width,
        layers=len(encoder.layers),
        vocabulary=encoder.vocabulary,
        length=encoder.length,
        parameters=encoder.parameters,
        pad=pad,
    )


def _pad(store: Store, digest: str, encoder: Encoder) -> int:
    """Return the tokenizer's id of padding; raise ``WrongOptions`` if it is another encoder's."""
    kind = inputs.kind("text", {"tokenizer": digest, "max_length": min(encoder.length, 128)})
    with store.blobs.open("tokenizers", digest) as file:
        content = file.read()
    try:
        reader = kind.input.text_reader(kind.options, {"tokenizer": content})
    except inputs.BadFile as error:
        raise WrongOptions(f"tokenizer.json: {error}") from None
    assert reader is not None
    if reader.options.vocabulary > encoder.vocabulary:
        raise WrongOptions(
            f"tokenizer.json has {reader.options.vocabulary} token ids and the encoder "
            f"{encoder.vocabulary}; bring the tokenizer that it was trained with"
        )
    return int(reader.options.pad)
