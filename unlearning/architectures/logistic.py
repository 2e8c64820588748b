"""Logistic regression on the rows' features, fitted to its minimum within a proven bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import nn

from unlearning.heads.logistic import LogisticHead

#: The method that models of this architecture use unless their policy names another.
DEFAULT_METHOD = "newton"


@dataclass(frozen=True)
class Parameters:
    """Size, grid and penalty of the head."""

    inputs: Annotated[int, Ge(1), Le(20_000)] = 64
    classes: Annotated[int, Ge(2), Le(20_000)] = 10
    #: Features are rounded to multiples of 2^-grid_bits. More rows, or larger features, need a
    #: coarser grid: with features of norm 1 a grid of 16 bits holds 2^21 rows, 14 bits 2^25.
    grid_bits: Annotated[int, Ge(4), Le(20)] = 16
    #: The penalty λ; null: chosen on the validation rows out of .01, .1, 1 and 10.
    penalty: Annotated[float, Gt(0), Le(1e9)] | None = None


def build(parameters: Parameters) -> nn.Module:
    """Return the head, not fitted yet: (n, ...) float to logits (n, classes) float64."""
    return LogisticHead(
        parameters.inputs,
        parameters.classes,
        bits=parameters.grid_bits,
        penalty=parameters.penalty,
    )
