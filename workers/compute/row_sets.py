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


def excluded(place: Workspace, location: str, array: str, asked: Excluded, rows: int) -> Tensor:
    """Return which of the first ``rows`` are excluded at the request's revision, (rows,) bool.

    ``location`` is that of the store that has the dataset's first ``array``. The process keeps one
    mask for the dataset, which grows with it: models of one dataset may know different numbers of
    its rows.
    """
    key = ("excluded", location, array, str(asked.dataset))
    revision, mask = place.find(key) or (0, None)
    if asked.since == 0:
        mask = torch.zeros(0, dtype=torch.bool)
    elif mask is None or not asked.since <= revision <= asked.until:
        raise NotKnown(f"the rows excluded up to revision {asked.since}")
    listed = torch.as_tensor(asked.rows, dtype=torch.int64)
    mask = _at_least(mask, max(rows, int(listed.max()) + 1 if len(listed) else 0))
    # In place: the rows stay excluded at this revision even if the request fails later.
    mask[listed] = True
    place.keep(key, (asked.until, mask))
    return mask[:rows]


def _at_least(mask: Tensor, rows: int) -> Tensor:
    """Return the mask, with rows that are not excluded appended if it is shorter."""
    if len(mask) >= rows:
        return mask
    return torch.cat([mask, torch.zeros(rows - len(mask), dtype=torch.bool)])


def trained_on(
    place: Workspace, location: str, asked: RecordList | None
) -> NDArray[np.int64] | None:
    """Return the rows that replace the train split, (k,); None: the split itself."""
    if asked is None:
        return None
    key = ("record list", location, asked.list_id)
    if asked.rows is not None:
        place.keep(key, np.asarray(asked.rows, dtype=np.int64))
    known: NDArray[np.int64] | None = place.find(key)
    if known is None:
        raise NotKnown(f"the rows of the record list {asked.list_id}")
    return known
