"""Tokenizers: put into the store and recorded, and loaded for the sources that name them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from models_store.errors import BucketUnavailable, StoreError
from service.ledger.database import db
from service.ledger.registry import choices, tokenizers
from workers.jobs import contents
from workers.readers import ReadError
from workers.runtime import Runtime


def of_input(runtime: Runtime, given: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the bytes of the files that the options of a kind of input name, by option.

    Raise ``ReadError`` if one cannot be loaded.
    """
    stated = given.get("options") or {}
    with runtime.session() as session:
        named = choices.input_files(db.read_only(session), given["name"])
    return {option: load(runtime, stated[option]) for option in named if option in stated}


def keep(runtime: Runtime, content: bytes, *, actor: str) -> str:
    """Store and record a tokenizer whose form was checked; return its digest."""
    blobs = runtime.store.blobs
    saved = blobs.put(tokenizers.KIND, contents.Bytes(content), {"origin": "command line"})
    with runtime.session() as session:
        tokenizers.register(
            session,
            saved.digest,
            size_bytes=saved.size_bytes,
            is_stored=lambda: blobs.exists(tokenizers.KIND, saved.digest),
            actor=actor,
            now=runtime.now(),
        )
    return saved.digest


def load(runtime: Runtime, digest: str) -> bytes:
    """Return a tokenizer's bytes; raise ``ReadError`` if the store has them not."""
    try:
        with runtime.store.blobs.open(tokenizers.KIND, digest) as file:
            content = file.read()
    except BucketUnavailable:
        raise
    except StoreError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ReadError(
            "the tokenizer of this source is missing in the store, or damaged there; send the same "
            "file to POST /v1/tokenizers again"
        )
    return content
