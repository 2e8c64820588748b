"""The divergence of two models' predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlearning.verification.statistics.scores import Floats


def jensen_shannon(p: NDArray[np.floating], q: NDArray[np.floating]) -> Floats:
    """Return the Jensen-Shannon divergence in bits of each row's predictions, (n,) in [0, 1].

    (KL(p‖m) + KL(q‖m)) / 2 with m = (p + q) / 2, for ``p`` and ``q`` (n, classes).
    """
    first, second = p.astype(np.float64), q.astype(np.float64)
    middle = (first + second) / 2
    both = _relative_entropy(first, middle) + _relative_entropy(second, middle)
    return np.clip(both / 2, 0.0, 1.0)


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    """Return KL(p‖q) in bits for each row, (n,); a class with p = 0 adds nothing."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.asarray(np.sum(p * np.log2(ratio), axis=1))
