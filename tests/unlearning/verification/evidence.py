"""Scores made up row by row, for tests that need to know the truth."""

import numpy as np

from unlearning.verification import ModelScores, Scores


def scores(
    loss: object, *, label: object = None, rows: object = None, correct: object = None
) -> Scores:
    """Scores with these losses; a row is correct when its loss is below log 2, unless told."""
    losses = np.asarray(loss, dtype=np.float64)
    n = len(losses)
    return Scores(
        loss=losses,
        correct=losses < np.log(2) if correct is None else np.asarray(correct, dtype=np.bool_),
        label=np.zeros(n, np.int64) if label is None else np.asarray(label, dtype=np.int64),
        rows=np.arange(n) if rows is None else np.asarray(rows, dtype=np.int64),
    )


def drawn(
    seed: int, *, forget: int, audit: int, memory: float = 0.0, noise: float = 0.3
) -> ModelScores:
    """A model that remembers: log losses of forget rows lie ``memory`` below those of audit rows.

    The same seed draws the same rows with the same difficulty; ``memory`` and a little noise that
    depends on it are the model's own.
    """
    rng = np.random.default_rng(seed)
    hard_f, hard_u = rng.normal(-0.8, 1, forget), rng.normal(-0.8, 1, audit)
    own = np.random.default_rng([seed, int(1000 * (memory + 10))])
    return ModelScores(
        forget=scores(np.exp(hard_f - memory + own.normal(0, noise, forget))),
        audit=scores(np.exp(hard_u + own.normal(0, noise, audit))),
    )
