"""Lengths and types of columns that several tables have."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Enum

NAME_LENGTH = 64
DIGEST_LENGTH = 64


def state(kind: type[StrEnum]) -> Enum:
    """Return the type of a column that holds a state."""
    # Stored as text and checked by the code's table of moves: a new state needs no migration.
    return Enum(
        kind,
        native_enum=False,
        create_constraint=False,
        length=24,
        values_callable=lambda members: [member.value for member in members],
    )
