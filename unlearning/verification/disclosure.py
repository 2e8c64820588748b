"""Who may read a figure, said where the figure is computed.

The service withholds everything else: a figure that says nothing about itself is shown to nobody
but auditors.
"""

from __future__ import annotations

from enum import StrEnum


class Disclosure(StrEnum):
    """Who may read a figure, and the sentence of a gate that quotes it."""

    #: Everybody: it does not follow from single rows.
    PUBLIC = "public"
    #: Everybody, unless it is of few rows, or of a set that few rows have left since it was last
    #: shown; auditors always.
    FEW_ROWS = "few_rows"
    #: Auditors alone: it tells of single records.
    SCORES = "scores"
