"""Who may read a figure; declared where the figure is computed.

The service withholds everything else: only auditors may read a figure without a declaration.
"""

from __future__ import annotations

from enum import StrEnum


class Disclosure(StrEnum):
    """Who may read a figure, and the reason of a gate that quotes it."""

    #: All readers: it does not depend on single rows.
    PUBLIC = "public"
    #: All readers, unless it is about few rows, or about a set that few rows have left since it was
    #: last shown; auditors always.
    FEW_ROWS = "few_rows"
    #: Only auditors: it describes single records.
    SCORES = "scores"
