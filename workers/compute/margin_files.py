"""Files of margins, and how rows are removed from them.

``rows``, ``held_out_rows`` and ``never_seen_rows`` are row numbers of the dataset's array. While
models are trained a file has margins by split and row; afterwards it has targets by row, and the
margins with which a verification judges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

#: The tensors whose last axis has a value for each of the rows that the key numbers.
OF = {
    "rows": ("values", "fold", "judge", "value", "variance"),
    "held_out_rows": ("held_out",),
    "never_seen_rows": ("never_seen", "never_seen_judge"),
}


def without(named: Arrays, gone: Collection[int]) -> dict[str, npt.NDArray[Any]] | None:
    """Return the tensors without the values of rows in ``gone``; None: they have none of them."""
    left = dict(named)
    changed = False
    for numbers, values in OF.items():
        if numbers not in named:
            continue
        stays = ~np.isin(named[numbers], np.fromiter(gone, dtype=np.int64, count=len(gone)))
        changed |= not stays.all()
        for name in {numbers, *values} & named.keys():
            left[name] = np.ascontiguousarray(np.compress(stays, named[name], axis=-1))
    return left if changed else None
