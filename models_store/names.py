"""Names of stored objects, and manifests that contain their own digest."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, get_args

from models_store import errors
from models_store.protocols import Kind

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(name: str) -> bool:
    """Return whether ``name`` has the form of a SHA-256 digest."""
    return bool(_DIGEST.fullmatch(name))


def check_digest(name: str) -> str:
    """Return ``name`` if it is a digest, so that an external name cannot lead out of the store."""
    if not isinstance(name, str) or not is_digest(name):
        raise errors.NotStored("Not a digest: expected 64 lower-case hexadecimal digits.")
    return name


def check_kind(kind: str) -> str:
    """Return ``kind``; raise ``ValueError`` unless it is one of ``Kind``."""
    if kind not in get_args(Kind):
        raise ValueError(f"Unknown kind {kind!r}; use one of {', '.join(get_args(Kind))}.")
    return kind


def not_stored(where: str, name: str) -> errors.NotStored:
    """Return the error for a name under which nothing complete is stored."""
    return errors.NotStored(
        f"Nothing is stored under {where}/{name}. It may have been purged; "
        "list what is stored and use one of those digests."
    )


def canonical(content: object) -> bytes:
    """Return JSON with sorted keys and no NaN, so that equal content has equal bytes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sealed(content: dict[str, Any]) -> bytes:
    """Return a manifest's bytes: ``content`` with a digest of itself."""
    digest = hashlib.sha256(canonical(content)).hexdigest()
    return canonical({"content": content, "sha256": digest})


def unsealed(record: bytes) -> dict[str, Any] | None:
    """Return the content of a manifest's bytes; None if its digest does not match."""
    try:
        found = json.loads(record)
        content, digest = found["content"], found["sha256"]
        intact = (
            isinstance(content, dict)
            and len(found) == 2
            and hashlib.sha256(canonical(content)).hexdigest() == digest
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return dict(content) if intact else None


def damaged_manifest(where: str, name: str) -> str:
    """Return the message for a manifest that is missing or whose digest does not match."""
    return (
        f"The manifest of {where}/{name} is damaged or missing. "
        "Restore it from a backup, or create the version or dataset again."
    )
