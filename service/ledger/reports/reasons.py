"""Why a figure is withheld, in words that stand in its place."""

from __future__ import annotations

#: Fewest rows whose figures are shown without the audit scope.
LEAST_ROWS = 10

FEW = f"fewer than {LEAST_ROWS} rows: shown to keys with audit:read"
POOLED = (
    f"judged with a batch of fewer than {LEAST_ROWS} rows, or without as few of its own, and less "
    "the figures of the others it would tell of these: shown to keys with audit:read"
)
RECORDS = "tells of single records: shown to keys with audit:read"
CHANGED = (
    f"this set differs by fewer than {LEAST_ROWS} rows from one whose figures were shown, and "
    "their difference would tell of these rows: shown to keys with audit:read"
)
AGAIN = (
    "two versions with the same weights were measured on other rows as well, and the difference "
    "would tell of these: shown to keys with audit:read"
)
POINTS = f"fewer than {LEAST_ROWS} rows for each point of the curve: shown to keys with audit:read"
