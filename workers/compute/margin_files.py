"""Files of margins: which rows they tell of, and the same without some of these.

``rows`` are numbers of rows in the dataset's array, as are ``held_out_rows``. While models are
still trained a file holds margins by split and row; the finished one holds targets by row.
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
    """Return the tensors without what they tell of the rows ``gone``; None: they tell nothing."""
    left = dict(named)
    told = False
    for numbers, axes in (("rows", OF_ROWS), ("held_out_rows", OF_HELD_OUT)):
        if numbers not in named:
            continue
        stays = ~np.isin(named[numbers], np.fromiter(gone, dtype=np.int64, count=len(gone)))
        told |= not stays.all()
        for name in axes.keys() & named.keys():
            left[name] = np.ascontiguousarray(np.compress(stays, named[name], axis=axes[name]))
    return left if told else None
