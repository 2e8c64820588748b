"""Check saved checkpoints of the audit chain's log, and proofs against them, without a database."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.ledger.audit import merkle, notes, signing

INCLUSION = "log-inclusion"
CONSISTENCY = "log-consistency"

_Hash = Field(pattern=r"^[0-9a-f]{64}$")


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class Inclusion(_Shape):
    """The proof that a line is in the log of a checkpoint."""

    type: Literal["log-inclusion"]
    line: int = Field(ge=1)
    hash: str = _Hash
    size: int | None = None
    root: str | None = None
    proof: list[str] = Field(max_length=64)
    checkpoint: str


class Consistency(_Shape):
    """The proof that the log of a checkpoint continues an earlier one."""

    type: Literal["log-consistency"]
    first: int = Field(ge=1)
    first_root: str
    second: int | None = None
    second_root: str | None = None
    proof: list[str] = Field(max_length=128)
    checkpoint: str


@dataclass(frozen=True)
class Shown:
    """What a checkpoint or a proof shows, in a sentence, and the key that signed the checkpoint."""

    text: str
    key_id: str


def checkpoint(content: bytes, keys: signing.Keys | None) -> Shown:
    """Return what a checkpoint says; raise ``ValueError`` if it does not hold."""
    made, used = _checked(content.decode("utf-8"), keys)
    root = base64.b64encode(made.root).decode()
    return Shown(
        f"the log {made.origin} has {made.size} lines and the root {root}, signed by key {used}",
        used,
    )


def proof(document: Mapping[str, Any], keys: signing.Keys | None) -> Shown:
    """Return what a proof shows; raise ``ValueError`` if it does not."""
    try:
        if document.get("type") == INCLUSION:
            return _inclusion(Inclusion.model_validate(document), keys)
        return _consistency(Consistency.model_validate(document), keys)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"this is not a proof that can be checked here: {place}") from None


def _inclusion(said: Inclusion, keys: signing.Keys | None) -> Shown:
    made, used = _checked(said.checkpoint, keys)
    _agree(made, said.size, said.root)
    entry, path = bytes.fromhex(said.hash), _hashes(said.proof)
    if not merkle.includes(entry, said.line - 1, made.size, path, made.root):
        raise ValueError("the proof does not show that the line is in the log")
    return Shown(
        f"line {said.line} with the hash {said.hash} is in the log of {made.size} lines whose "
        f"checkpoint key {used} signed",
        used,
    )


def _consistency(said: Consistency, keys: signing.Keys | None) -> Shown:
    made, used = _checked(said.checkpoint, keys)
    _agree(made, said.second, said.second_root)
    [old] = _hashes([said.first_root])
    if not merkle.continues(said.first, made.size, _hashes(said.proof), old, made.root):
        raise ValueError("the proof does not show that the log continues the earlier one")
    return Shown(
        f"the log of {made.size} lines, whose checkpoint key {used} signed, continues that "
        f"of {said.first} lines with the root {said.first_root}: compare it with the one that you "
        "kept",
        used,
    )


def _checked(note: str, keys: signing.Keys | None) -> tuple[notes.Checkpoint, str]:
    if keys is None:
        raise ValueError("a checkpoint is checked with the published keys; give --keys")
    return notes.check(note, keys)


def _agree(made: notes.Checkpoint, size: int | None, root: str | None) -> None:
    """Raise ``ValueError`` if a proof says another size or root than its checkpoint."""
    if size not in (None, made.size) or root not in (None, base64.b64encode(made.root).decode()):
        raise ValueError("the proof says another size or root than its checkpoint")


def _hashes(texts: list[str]) -> list[bytes]:
    try:
        found = [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        found = [b""]
    if any(len(one) != 32 for one in found):
        raise ValueError("a hash of the proof is not 32 bytes in base64")
    return found
