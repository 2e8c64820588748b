"""The interface of a kind of input: its declaration, and how rows become a network's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class BadRow(Exception):
    """A row that is not valid for its kind; ``row`` and ``position`` count from 0 in the chunk.

    The reason says what to correct and never quotes the value: it may be personal data.
    """

    def __init__(self, reason: str, *, row: int, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.row, self.position = reason, row, position


@dataclass(frozen=True)
class Plain:
    """No options."""


Options = TypeVar("Options")


class Input(ABC, Generic[Options]):
    """One kind of input: how its rows are stored and checked, and what a network receives of them.

    ``options`` of every method are those that the dataset's source gives.
    """

    #: Frozen dataclass of the options that a source gives.
    options: type[Options]
    #: Names of the axes of one row, such as ``("channels", "height", "width")``.
    axes: tuple[str, ...]
    #: Dtypes in the store; integers 0..255 throughout are stored as uint8 if it is among them.
    dtypes: tuple[str, ...]
    #: By stored dtype, the factor of rows unless a model's transform says otherwise; empty for rows
    #: that are not quantities and take no transform.
    scales: Mapping[str, float] = {}
    #: Parameters of an architecture that datasets of this kind decide.
    decides: tuple[str, ...] = ()
    #: Whether the options are learned from a dataset's training rows at its ingest, and no source
    #: states them.
    learned: bool = False

    @abstractmethod
    def parameters(self, shape: Sequence[int], options: Options) -> dict[str, int]:
        """Return the value of each of ``decides`` for rows of this ``shape``."""

    def check(self, rows: NDArray[Any], options: Options) -> None:
        """Raise ``BadRow`` for the first of ``rows`` (k, *shape), as stored, that is not valid."""
        return

    def collate(self, x: Tensor, options: Options) -> tuple[Tensor, ...]:
        """Return what a network is called with for stored rows ``x`` (n, *shape) on the device.

        Rows that are quantities come transformed, as floats. A mask for padding is made here.
        """
        return (x,)


def first(wrong: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Return row, and position within it, of the first true value of (k, *shape), or None."""
    found = np.argwhere(wrong.reshape(len(wrong), -1))
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None
