"""Rows of numbers, a column for each feature."""

from __future__ import annotations

from collections.abc import Sequence

from unlearning.inputs._contract import Input, Plain


class Table(Input[Plain]):
    """Numbers are unchanged: a byte in a table is a quantity like any other."""

    options = Plain
    axes = ("features",)
    dtypes = ("uint8", "float32")
    scales = {"uint8": 1.0, "float32": 1.0}  # noqa: RUF012 - constant
    decides = ("inputs",)

    def parameters(self, shape: Sequence[int], options: Plain) -> dict[str, int]:
        """Return the number of features."""
        return {"inputs": shape[0]}


INPUT = Table()
