"""Files of margins, and how rows are removed from them.

``rows`` and ``held_out_rows`` are row numbers of the dataset's array. While models are trained a
file has margins by split and row; afterwards it has targets by row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

#: The axis along which each tensor has a value for each row.
OF_ROWS = {"rows": 0, "values": 1, "fold": 1, "value": 0, "variance": 0}
OF_HELD_OUT = {"held_out_rows": 0, "held_out": 2}


def without(named: Arrays, gone: Collection[int]) -> dict[str, npt.NDArray[Any]] | None:
    """Return the tensors without the values of rows in ``gone``; None: they have none of them."""
    left = dict(named)
    changed = False
    for numbers, axes in (("rows", OF_ROWS), ("held_out_rows", OF_HELD_OUT)):
        if numbers not in named:
            continue
        stays = ~np.isin(named[numbers], np.fromiter(gone, dtype=np.int64, count=len(gone)))
        changed |= not stays.all()
        for name in axes.keys() & named.keys():
            left[name] = np.ascontiguousarray(np.compress(stays, named[name], axis=axes[name]))
    return left if changed else None
