"""Evidence that adds up over the batches of a chain: a test martingale.

A batch's e-value is a likelihood ratio whose mean is at most 1 if the model never saw its rows. The
product over batches of 1 − π + π·e, averaged over shares π of batches that may have been left as
they were, then exceeds 1/α at any time in the chain with probability at most α (Ville's inequality;
Ramdas, Grünwald, Vovk & Shafer, "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 38, 2023). So batches too small to be judged alone are judged together, however
many there are, and well forgotten ones lend them nothing: the product falls only slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlearning.errors import WrongOptions
from unlearning.verification.statistics.scores import Floats

#: Shares of the batches that may have been left as they were.
SHARES = (0.05, 0.2, 1.0)


@dataclass(frozen=True)
class Chain:
    """Logarithms of the products, (len(SHARES),) float64, after so many ``batches``."""

    logarithms: Floats
    batches: int = 0

    @classmethod
    def begun(cls) -> Chain:
        """Return a chain without batches."""
        return cls(np.zeros(len(SHARES)))

    def __post_init__(self) -> None:
        if self.logarithms.shape != (len(SHARES),):
            raise WrongOptions(f"a chain has {len(SHARES)} products, not {self.logarithms.shape}")

    def followed_by(self, log_e: float) -> Chain:
        """Return the chain after one more batch, of the e-value exp(``log_e``)."""
        shares = np.array(SHARES)
        with np.errstate(divide="ignore"):
            others = np.log(1 - shares)
        grown = np.logaddexp(others, np.log(shares) + log_e)
        return Chain(self.logarithms + grown, self.batches + 1)

    @property
    def log_evidence(self) -> float:
        """Return the logarithm of the average product."""
        return float(np.logaddexp.reduce(self.logarithms) - np.log(len(SHARES)))

    def to_array(self) -> NDArray[np.float64]:
        """Return the chain as an array, for storage."""
        return np.append(self.logarithms, float(self.batches))

    @classmethod
    def from_array(cls, array: NDArray[np.generic]) -> Chain:
        """Return the chain from which ``to_array`` made this array."""
        values = np.asarray(array, dtype=np.float64)
        return cls(values[:-1], int(values[-1]))
