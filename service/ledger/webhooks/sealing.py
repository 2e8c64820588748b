"""Secrets that the service must be able to read again, encrypted where the database keeps them.

AES-256-GCM under a key that HKDF-SHA256 derives from the subject key, which the database does not
hold. What was sealed under the previous subject key can still be opened.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.settings import Settings

_PURPOSE = b"unlearn webhook secrets"
_NONCE_BYTES = 12


class NotOpened(ValueError):
    """A sealed secret cannot be opened: its key is no longer in the settings."""


@dataclass(frozen=True)
class Sealer:
    """Seals under the current key; opens what any key still in force has sealed."""

    keys: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> Sealer:
        """Return a sealer with the current subject key and, if there is one, the previous."""
        given = [settings.subject_key]
        if settings.subject_key_previous is not None:
            given.append(settings.subject_key_previous)
        return cls(tuple(_derived(one.get_secret_value().encode()) for one in given))

    def seal(self, secret: str, *, owner: str) -> bytes:
        """Return the encrypted secret; it opens for the same owner (the row's id) alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self.keys[0]).encrypt(nonce, secret.encode(), owner.encode())

    def open(self, sealed: bytes, *, owner: str) -> str:
        """Return the secret; raise ``NotOpened`` if no key in force has sealed it."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for key in self.keys:
            try:
                return AESGCM(key).decrypt(nonce, rest, owner.encode()).decode()
            except InvalidTag:
                continue
        raise NotOpened(
            "its secret was encrypted under another UNLEARN_SUBJECT_KEY; replace it with "
            ":rotate-secret"
        )

    def is_current(self, sealed: bytes, *, owner: str) -> bool:
        """Return whether the secret is sealed under the current key."""
        try:
            Sealer(self.keys[:1]).open(sealed, owner=owner)
        except NotOpened:
            return False
        return True


def _derived(key: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(key)
