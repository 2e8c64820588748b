"""Identities of OpenDSR, and the subject ids under which a person's records may be kept.

The ledger keeps keyed digests of subject ids as they were ingested. A hashed identity can only be
matched if the ids that were ingested are such hashes: a digest cannot be computed from a hash of
what it was made of. A raw identity can be hashed, so it matches both. An operator states what the
ingested ids are (``UNLEARN_OPENDSR_IDENTITIES``); what cannot match is refused, not ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from service.errors import Unprocessable


class IdentityType(StrEnum):
    """Identity type keys of the specification, section 5.1."""

    CONTROLLER_CUSTOMER_ID = "controller_customer_id"
    ANDROID_ADVERTISING_ID = "android_advertising_id"
    ANDROID_ID = "android_id"
    EMAIL = "email"
    FIRE_ADVERTISING_ID = "fire_advertising_id"
    IOS_ADVERTISING_ID = "ios_advertising_id"
    IOS_VENDOR_ID = "ios_vendor_id"
    MICROSOFT_ADVERTISING_ID = "microsoft_advertising_id"
    MICROSOFT_PUBLISHER_ID = "microsoft_publisher_id"
    ROKU_PUBLISHER_ID = "roku_publisher_id"
    ROKU_ADVERTISING_ID = "roku_advertising_id"


class IdentityFormat(StrEnum):
    """Identity formats of the specification, section 5.2."""

    RAW = "raw"
    SHA1 = "sha1"
    MD5 = "md5"
    SHA256 = "sha256"


#: Hex digits of a hash.
_DIGITS = {IdentityFormat.SHA1: 40, IdentityFormat.MD5: 32, IdentityFormat.SHA256: 64}


class UnsupportedIdentity(Unprocessable):
    """No subject id that was ingested can be of this type and format."""

    code = "unsupported-identity"


class BadHash(Unprocessable):
    """A hashed identity is not a hash of its format."""

    code = "bad-hash"


@dataclass(frozen=True)
class Identity:
    """An identity of a person, as a controller names it."""

    type: IdentityType
    format: IdentityFormat
    value: str = field(repr=False)


Pair = tuple[IdentityType, IdentityFormat]


@dataclass(frozen=True)
class Ingested:
    """What the subject ids of the datasets are."""

    pairs: tuple[Pair, ...]

    @classmethod
    def parse(cls, text: str) -> Ingested:
        """Return the pairs of ``UNLEARN_OPENDSR_IDENTITIES``; raise ``ValueError`` for others."""
        given = [one.strip() for one in text.split(",") if one.strip()]
        try:
            pairs = [_pair(one) for one in given]
        except ValueError:
            raise ValueError(
                "UNLEARN_OPENDSR_IDENTITIES must be pairs such as email:raw or email:sha256, "
                f"comma-separated; types: {', '.join(IdentityType)}; formats: "
                f"{', '.join(IdentityFormat)}"
            ) from None
        if not pairs:
            raise ValueError("UNLEARN_OPENDSR_IDENTITIES is empty; name at least one pair")
        return cls(tuple(dict.fromkeys(pairs)))

    @property
    def supported(self) -> list[Pair]:
        """Return the pairs that a request may have: those ingested, and each of them raw."""
        raw = [(kind, IdentityFormat.RAW) for kind, _ in self.pairs]
        return sorted({*self.pairs, *raw})

    def subject_ids(self, identities: Iterable[Identity]) -> list[str]:
        """Return the subject ids under which the person may be kept, each once.

        Raise ``UnsupportedIdentity`` or ``BadHash``; neither says which value it was.
        """
        found = [one for place, it in enumerate(identities) for one in self._of(it, place)]
        return list(dict.fromkeys(found))

    def _of(self, identity: Identity, place: int) -> list[str]:
        if (identity.type, identity.format) not in self.supported:
            raise UnsupportedIdentity(
                f"subject_identities.{place}: no dataset keeps subjects by {identity.type} as "
                f"{identity.format}; GET /opendsr/discovery lists what can be matched",
                field=f"subject_identities.{place}",
            )
        if identity.format != IdentityFormat.RAW:
            return [_checked(identity, place)]
        return [
            identity.value if kept == IdentityFormat.RAW else _hashed(identity, kept)
            for kind, kept in self.pairs
            if kind == identity.type
        ]


def _pair(text: str) -> Pair:
    kind, _, form = text.partition(":")
    return IdentityType(kind.strip()), IdentityFormat(form.strip())


def _checked(identity: Identity, place: int) -> str:
    """Return a hash in lower case, the form in which hashes have to be ingested."""
    digits, value = _DIGITS[identity.format], identity.value.strip().lower()
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise BadHash(
            f"subject_identities.{place}: a value of format {identity.format} has {digits} hex "
            "digits",
            field=f"subject_identities.{place}",
        )
    return value


def _hashed(identity: Identity, form: IdentityFormat) -> str:
    """Return the hash of a raw identity, 40, 32 or 64 hex digits; an email's in lower case."""
    value = identity.value.strip()
    if identity.type == IdentityType.EMAIL:
        value = value.lower()
    return hashlib.new(form.value, value.encode(), usedforsecurity=False).hexdigest()
