"""Public ids that sort by time of creation: a prefix, 48 bits of milliseconds, 80 random bits.

Those of one millisecond sort as this process made them, so that rows that are inserted together lie
in one order in the table and in its index.
"""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case


_RANDOM_BITS = 80
#: By how much an id may exceed the previous one of its millisecond: still not to be guessed.
_STEP_BITS = 64

_lock = threading.Lock()
_last = 0


def new(prefix: str) -> str:
    """Return a fresh id such as ``dr_01k0c9…`` (prefix, underscore, 26 letters)."""
    number = _next(time.time_ns() // 1_000_000)
    letters = [_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(letters)}"


def _next(milliseconds: int) -> int:
    """Return a random number that begins with the time and exceeds every earlier one.

    While the clock stands still, or goes back, it is a random step above the last one.
    """
    global _last
    with _lock:
        fresh = milliseconds << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        if milliseconds <= _last >> _RANDOM_BITS:
            fresh = _last + 1 + secrets.randbits(_STEP_BITS)
        _last = fresh
        return fresh
