"""Public ids that sort by time of creation: a prefix, 48 bits of milliseconds, 80 random bits."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case


def new(prefix: str) -> str:
    """Return a fresh id such as ``dr_01k0c9…`` (prefix, underscore, 26 letters)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    letters = [_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(letters)}"
