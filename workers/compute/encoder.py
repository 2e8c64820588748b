"""Check an encoder's files: build it, and compare it with what prepares its input."""

from __future__ import annotations

from collections.abc import Callable

from models_store import Store
from service.messages.encoder import Answer, Images, Request, Texts
from service.messages.parts import Fraction
from unlearning import inputs
from unlearning.architectures import Encoder, ImageEncoder, TextEncoder
from unlearning.errors import WrongOptions
from workers.compute import files
from workers.compute.workspace import Workspace


def run(request: Request, place: Workspace, progress: Callable[[Fraction], None]) -> Answer:
    """Return what the encoder is; raise ``WrongOptions`` if its files do not fit each other."""
    store = place.store(request.store)
    described = files.description(store, request.digest)
    encoder = files.encoder(store, request.digest)
    return Answer(
        kind=encoder.kind,
        width=encoder.width,
        layers=len(encoder.layers),
        parameters=encoder.parameters,
        texts=_texts(store, described.tokenizer, encoder),
        images=_images(encoder),
    )


def _images(encoder: Encoder) -> Images | None:
    if not isinstance(encoder, ImageEncoder):
        return None
    height, width = encoder.size
    return Images(channels=encoder.channels, image_height=height, image_width=width)


def _texts(store: Store, digest: str | None, encoder: Encoder) -> Texts | None:
    if not isinstance(encoder, TextEncoder):
        return None
    if digest is None:
        raise WrongOptions("config.json is of a text encoder, which needs its tokenizer.json")
    pad = _pad(store, digest, encoder)
    return Texts(vocabulary=encoder.vocabulary, length=encoder.length, pad=pad)


def _pad(store: Store, digest: str, encoder: TextEncoder) -> int:
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
