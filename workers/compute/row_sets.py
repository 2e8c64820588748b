"""Data that a compute process remembers between requests: excluded rows, rows of record lists.

Both may be most of a dataset, so a request carries only what the process does not have: the rows
excluded since a revision, and no list that was sent before. The process raises ``NotKnown`` if it
lacks what a request relies on; the worker then sends everything.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.messages.unlearn import Excluded, RecordList
from workers.compute.failures import NotKnown
from workers.compute.workspace import Workspace


def excluded(place: Workspace, location: str, array: str, told: Excluded, rows: int) -> Tensor:
    """Return which of the dataset's ``rows`` are excluded at the request's revision, (rows,) bool.

    ``location`` is that of the store that has the dataset's ``array``.
    """
    key = ("excluded", location, array, str(told.dataset))
    revision, mask = place.find(key) or (0, None)
    if told.since == 0:
        mask = torch.zeros(rows, dtype=torch.bool)
    elif mask is None or not told.since <= revision <= told.until:
        raise NotKnown(f"the rows excluded up to revision {told.since}")
    # In place: the rows stay excluded at this revision even if the request fails later.
    mask[torch.as_tensor(told.rows, dtype=torch.int64)] = True
    place.keep(key, (told.until, mask))
    return mask


def trained_on(
    place: Workspace, location: str, told: RecordList | None
) -> NDArray[np.int64] | None:
    """Return the rows that replace the train split, (k,); None: the split itself."""
    if told is None:
        return None
    key = ("record list", location, told.list_id)
    if told.rows is not None:
        place.keep(key, np.asarray(told.rows, dtype=np.int64))
    known: NDArray[np.int64] | None = place.find(key)
    if known is None:
        raise NotKnown(f"the rows of the record list {told.list_id}")
    return known
