"""What a kind of input says of itself, and how its rows become what a network is called with."""

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
    """A row that is no input of its kind; ``row`` and ``position`` count from 0 within the chunk.

    The reason says what to correct and never quotes the value: it may be personal data.
    """

    def __init__(self, reason: str, *, row: int, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.row, self.position = reason, row, position


@dataclass(frozen=True)
class Plain:
    """No options: the rows say everything."""


Options = TypeVar("Options")


class Input(ABC, Generic[Options]):
    """One kind of input: how its rows are stored and checked, and what a network gets of them.

    ``options`` of every method are those that the source of a dataset states.
    """

    #: Frozen dataclass of what a source states about its rows.
    options: type[Options]
    #: Axes of one row, in words, such as ``("channels", "height", "width")``.
    axes: tuple[str, ...]
    #: Types in the store; whole numbers from 0 to 255 throughout take uint8 where it is among them.
    dtypes: tuple[str, ...]
    #: By the type in the store, what rows are multiplied by unless a model's transform says
    #: otherwise; empty where rows are no quantities and take no transform.
    scales: Mapping[str, float] = {}
    #: Parameters of an architecture that its datasets decide.
    decides: tuple[str, ...] = ()

    @abstractmethod
    def parameters(self, shape: Sequence[int], options: Options) -> dict[str, int]:
        """Return the value of each of ``decides`` for rows of this ``shape``."""

    def check(self, rows: NDArray[Any], options: Options) -> None:
        """Raise ``BadRow`` for the first of ``rows`` (k, *shape), as stored, that is none."""
        return

    def collate(self, x: Tensor, options: Options) -> tuple[Tensor, ...]:
        """Return what a network is called with for stored rows ``x`` (n, *shape) on the device.

        Rows of quantities come transformed, as floats. Padding is marked here, by a mask.
        """
        return (x,)


def first(wrong: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Return row and position within it of the first true value of (k, *shape), or None."""
    found = np.argwhere(wrong.reshape(len(wrong), -1))
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None
