"""Margins of the scored rows under models that were not trained on them.

They come from ``unlearning.anchored.margins``. A margin of a forgotten or retained row is one of a
model of the fold that the row was in; for a never-seen row a fold is drawn, so that all have the
same noise (``unlearning.anchored.comparable``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearning.errors import WrongOptions
from unlearning.verification.statistics.scores import Floats


@dataclass(frozen=True)
class Outside:
    """Margins (n,) float64 of each set's rows, in their order; NaN where one is not known.

    ``circular``: the same values set the targets of the update under test. They then show what is
    still remembered, and cannot show that it is gone.
    """

    forget: Floats
    audit: Floats
    retain: Floats | None = None
    circular: bool = False

    def __post_init__(self) -> None:
        for name in ("forget", "audit", "retain"):
            values = getattr(self, name)
            if values is not None and values.ndim != 1:
                raise WrongOptions(f"margins of {name} rows have shape {values.shape}, not (rows,)")

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return plain arrays by name, for storage."""
        named = {name: getattr(self, name) for name in ("forget", "audit", "retain")}
        found = {name: array for name, array in named.items() if array is not None}
        return found | {"circular": np.array([self.circular])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Outside:
        """Return the margins from which ``to_arrays`` made these arrays."""
        retain = arrays.get("retain")
        return cls(
            np.asarray(arrays["forget"], dtype=np.float64),
            np.asarray(arrays["audit"], dtype=np.float64),
            None if retain is None else np.asarray(retain, dtype=np.float64),
            bool(np.asarray(arrays["circular"])[0]),
        )
