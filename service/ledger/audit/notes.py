"""Signed notes, and checkpoints of a log in that form, as C2SP specifies them.

c2sp.org/signed-note and c2sp.org/tlog-checkpoint, with Ed25519 (type 0x01). The same key signs as
for documents. A checkpoint begins with the log's origin, which neither begins with ``{``, as a
document does, nor with ``DSSEv1 ``, as an envelope does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519 = b"\1"
_DASH = "\N{EM DASH} "
_DIGITS = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says: how many entries the log has, and the root of their tree."""

    origin: str
    size: int
    root: bytes


def verifier_key(name: str, public_key: bytes) -> str:
    """Return a verifier key as programs for signed notes read it: name, key id and key."""
    encoded = base64.b64encode(_ED25519 + public_key).decode()
    return f"{name}+{_key_id(name, public_key).hex()}+{encoded}"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Return the checkpoint as a signed note, under a key of the origin's name."""
    text = f"{checkpoint.origin}\n{checkpoint.size}\n{_text(checkpoint.root)}\n"
    public = key.public_key().public_bytes_raw()
    signature = _key_id(checkpoint.origin, public) + key.sign(text.encode())
    return f"{text}\n{_DASH}{checkpoint.origin} {_text(signature)}\n"


def is_note(content: bytes) -> bool:
    """Return whether this looks like a signed note."""
    return f"\n\n{_DASH}".encode() in content


def check(note: str, keys: Mapping[str, bytes]) -> tuple[Checkpoint, str]:
    """Return a note's checkpoint, and the id of the key among ``keys`` that signed it.

    Raise ``ValueError`` if it is no checkpoint, or none of the keys signed it.
    """
    text, signatures = _parts(note)
    checkpoint = _checkpoint(text)
    for identifier, public in keys.items():
        if _signed(text, signatures, checkpoint.origin, public):
            return checkpoint, identifier
    raise ValueError("the checkpoint was changed, or none of the trusted keys signed it")


def _parts(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Return the signed text, and the signatures with their names."""
    text, separator, rest = note.rpartition("\n\n")
    if not separator or not rest.endswith("\n"):
        raise ValueError("this is not a signed note")
    return text + "\n", list(_signatures(rest.splitlines()))


def _signatures(lines: Iterable[str]) -> Iterable[tuple[str, bytes]]:
    for line in lines:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not name:
            raise ValueError("a line of the note is not a signature")
        yield name, _bytes(encoded)


def _signed(
    text: str, signatures: Iterable[tuple[str, bytes]], origin: str, public_key: bytes
) -> bool:
    wanted = _key_id(origin, public_key)
    key = Ed25519PublicKey.from_public_bytes(public_key)
    for name, signature in signatures:
        if name == origin and signature[:4] == wanted:
            try:
                key.verify(signature[4:], text.encode())
            except InvalidSignature:
                continue
            return True
    return False


def _checkpoint(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0] or not _DIGITS.fullmatch(lines[1]):
        raise ValueError("the note is not a checkpoint")
    root = _bytes(lines[2])
    if len(root) != 32:
        raise ValueError("the root of the checkpoint does not have 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


def _key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("this is not base64") from None
