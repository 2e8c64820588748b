"""Ridge regression on the rows' features, fitted in closed form: rows can be deleted exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from torch import nn

from unlearning.errors import WrongOptions
from unlearning.heads.ridge import RidgeHead

#: The method that models of this architecture use unless their policy names another.
DEFAULT_METHOD = "downdate"


@dataclass(frozen=True)
class Parameters:
    """Size, grid and lift of the head."""

    inputs: Annotated[int, Ge(1), Le(20_000)] = 64
    classes: Annotated[int, Ge(2), Le(20_000)] = 10
    #: Features are rounded to multiples of 2^-grid_bits. More rows, or larger features, need a
    #: coarser grid: with features of norm 1 a grid of 16 bits holds 2^21 rows, 14 bits 2^25.
    grid_bits: Annotated[int, Ge(4), Le(20)] = 16
    #: The penalty λ; null: chosen on the validation rows out of .001, .01, .1, 1 and 10.
    penalty: Annotated[float, Gt(0), Le(1e9)] | None = None
    #: ``random_fourier``: fit on random Fourier features of the rows, not on the rows themselves.
    lift: Literal["none", "random_fourier"] = "none"
    #: Number of random Fourier features, even.
    lift_features: Annotated[int, Ge(2), Le(16_384)] = 2048
    #: Distance between rows over which the lifted fit is smooth.
    bandwidth: Annotated[float, Gt(0), Le(1e6)] = 1.0
    #: Seed of the random features.
    lift_seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0


def build(parameters: Parameters) -> nn.Module:
    """Return the head, not fitted yet: (n, ...) float to logits (n, classes) float64."""
    lifts = parameters.lift == "random_fourier"
    if lifts and parameters.lift_features % 2:
        raise WrongOptions("lift_features must be even: each direction gives a cosine and a sine")
    return RidgeHead(
        parameters.inputs,
        parameters.classes,
        bits=parameters.grid_bits,
        penalty=parameters.penalty,
        lifted_to=parameters.lift_features if lifts else 0,
        bandwidth=parameters.bandwidth,
        lift_seed=parameters.lift_seed,
    )
