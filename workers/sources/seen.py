"""What is kept of a source's chunks beside their rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from service.ledger.database import identifiers
from unlearning.inputs.typed_table import Options
from workers import readers
from workers.sources import encoding
from workers.sources.texts import Texts


class Seen:
    """What is kept of the chunks beside their rows.

    ``known`` is the encoding of the dataset that the rows join; ``twice``: the source will be read
    again, and has to be the same then.
    """

    def __init__(self, known: Options | None = None, *, twice: bool = False) -> None:
        self.read = 0
        self.content = encoding.Content() if twice else None
        self._unknown = None if known is None else encoding.Unknown(known)
        self.labels: list[npt.NDArray[np.int64]] = []
        self.splits: list[npt.NDArray[np.uint8]] = []
        self.record_ids, self.subject_ids = Texts(), Texts()
        self._kept: list[npt.NDArray[np.bool_]] = []

    def add(self, chunk: readers.Chunk, kept: npt.NDArray[np.bool_]) -> None:
        """Note what is left of a chunk, and which of its rows that are."""
        self.read += len(kept)
        self._kept.append(kept)
        self.labels.append(chunk.labels)
        self.record_ids.extend(chunk.record_ids or [])
        self.subject_ids.extend(chunk.subject_ids or [])
        if self._unknown is not None:
            self._unknown.add(chunk.x)
        if chunk.splits is not None:
            self.splits.append(chunk.splits)

    @property
    def suppressed(self) -> int:
        """Return how many rows were left out."""
        return self.read - sum(int(kept.sum()) for kept in self._kept)

    @property
    def unknown(self) -> Mapping[str, int]:
        """Return how many words of the rows the dataset's encoding does not know, by column."""
        return {} if self._unknown is None else self._unknown.counts

    def where(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which rows of the source (n,) are those of the kept ones that are chosen."""
        found = np.concatenate(self._kept)
        found[found] = chosen
        return found

    def all_labels(self) -> npt.NDArray[np.int64]:
        """Return labels (n,) of the rows that were kept; call it once, as they are dropped here."""
        labels = np.concatenate(self.labels)
        self.labels.clear()
        return labels

    def generated_ids(self) -> Texts:
        """Return ids by the rows' positions in the source, counting rows that were left out."""
        positions = np.flatnonzero(np.concatenate(self._kept))
        return Texts(identifiers.generated(int(row), self.read) for row in positions)
