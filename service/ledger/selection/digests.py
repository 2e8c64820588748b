"""Keyed digests of subjects and records: the only form in which either is stored or reported."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.settings import Settings


@dataclass(frozen=True)
class Digester:
    """HMAC-SHA256 under the current key; earlier keys still match what was stored under them."""

    keys: tuple[bytes, ...]

    @classmethod
    def from_settings(cls, settings: Settings) -> Digester:
        """Return the current key first, then the previous one if there is one."""
        keys = [settings.subject_key.get_secret_value().encode()]
        if settings.subject_key_previous is not None:
            keys.append(settings.subject_key_previous.get_secret_value().encode())
        return cls(tuple(keys))

    def subject(self, subject_id: str) -> str:
        """Return the digest of a subject, 64 hex digits, the same in every dataset."""
        return _digest(self.keys[0], "subject", _EVERYWHERE, subject_id)

    def subjects(self, subject_id: str) -> list[str]:
        """Return digests of a subject under every key still in force, the current one first."""
        return [_digest(key, "subject", _EVERYWHERE, subject_id) for key in self.keys]

    def subject_candidates(self, dataset: str, subject_id: str) -> list[str]:
        """Return digests under which a dataset may keep a subject, the present form first.

        Earlier releases gave a subject another digest in each dataset.
        """
        own = [_digest(key, "subject", dataset, subject_id) for key in self.keys]
        return [*self.subjects(subject_id), *own]

    def record(self, dataset: str, record_id: str) -> str:
        """Return the digest of a record, as audit reports name it."""
        return _digest(self.keys[0], "record", dataset, record_id)

    def record_candidates(self, dataset: str, record_id: str) -> list[str]:
        """Return digests under which a record may have been named, one for every key in force."""
        return [_digest(key, "record", dataset, record_id) for key in self.keys]

    def each_record_candidates(
        self, dataset: str, record_ids: Iterable[str]
    ) -> Iterator[list[str]]:
        """Yield ``record_candidates`` of many records, each at half of its cost."""
        begun = [
            hmac.new(key, _message("record", dataset, ""), hashlib.sha256) for key in self.keys
        ]
        for record_id in record_ids:
            value, found = record_id.encode(), []
            for one in begun:
                digest = one.copy()
                digest.update(value)
                found.append(digest.hexdigest())
            yield found

    def row(self, record: str, content: bytes) -> str:
        """Return the digest of a row: of its record id and a digest of its content."""
        return _digest(self.keys[0], "row", record, content.hex())

    def rows(self, record: str, content: bytes) -> list[str]:
        """Return digests of a row under every key still in force, the current one first."""
        return [_digest(key, "row", record, content.hex()) for key in self.keys]

    def bodies(self, principal: str, body: str) -> tuple[str, ...]:
        """Return digests of a request's body under every key in force, the current one first."""
        return tuple(_digest(key, "body", principal, body) for key in self.keys)


#: In place of a dataset's name, for digests that hold in all; no dataset has it.
_EVERYWHERE = ""


def _digest(key: bytes, kind: str, dataset: str, value: str) -> str:
    return hmac.new(key, _message(kind, dataset, value), hashlib.sha256).hexdigest()


def _message(kind: str, dataset: str, value: str) -> bytes:
    return "\x1f".join((kind, dataset, value)).encode()
