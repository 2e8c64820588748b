"""Score models on the sets of a verification, and cache the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from unlearning import verification
from unlearning.architectures import Classifier
from unlearning.core.examples import Examples, concatenate
from unlearning.verification import ModelScores, Scores
from workers.compute import data
from workers.compute.data import Data
from workers.compute.workspace import Workspace

#: Retained rows on which a verification scores models. Fixed, so that the cost of a deletion does
#: not grow with the dataset.
RETAIN_SAMPLE = 2000
#: Largest number of never-seen rows and of validation rows on which it scores models.
AUDIT_SAMPLE = 5000
CALIBRATION_SAMPLE = 1000
#: A sample leaves out no fewer rows than this, or none: figures of one set are shown for samples of
#: several sizes, and their difference would be the figures of the rows between them. It is the
#: service's least number of rows whose figures are shown.
LEAST_LEFT_OUT = 10
#: By set, its split and the size of its sample.
_Samples = Mapping[str, tuple[int, int]]
#: The sets of a verification, and of the measurement of an import: split and size of the sample.
SETS: _Samples = {
    "retain": (data.TRAIN, RETAIN_SAMPLE),
    "calibration": (data.VALIDATION, CALIBRATION_SAMPLE),
    "audit": (data.AUDIT, AUDIT_SAMPLE),
}
SETS_OF_IMPORT: _Samples = {name: (split, AUDIT_SAMPLE) for name, (split, _) in SETS.items()}


def sets(
    rows: Data, forget: list[int], *, never_seen: Sequence[int] = (), portion: float = 1.0
) -> dict[str, Examples]:
    """Return the sets that stay the same from batch to batch, except for rows forgotten since.

    ``never_seen`` are audit rows of a class that is being forgotten: they are excluded like its
    other rows, and until they are erased only they can show that the class was forgotten.
    ``portion``: the share of each sample to take; a smaller one is part of a larger one.
    """
    found = _samples(rows, SETS, portion, without=forget)
    if never_seen:
        found["audit"] = concatenate(found["audit"], rows.first(never_seen, AUDIT_SAMPLE))
    return found


def sampled(
    rows: Data,
    fixed: Mapping[str, Examples],
    *,
    never_seen: Sequence[int] = (),
    portion: float = 1.0,
) -> dict[str, Any]:
    """Return the samples in ``sets`` as JSON: limits of their places and numbers of rows.

    The ledger compares them with those whose figures it showed. ``never_seen`` rows are left out,
    as they are in figures of the audit rows.
    """
    found = _sampled(rows, SETS, fixed, portion)
    found["audit"]["rows"] -= min(len(never_seen), AUDIT_SAMPLE)
    return found


def scores(
    place: Workspace,
    identity: tuple[str, str],
    model: Classifier,
    fixed: dict[str, Examples],
    forget: Examples,
    forget_rows: list[int],
    *,
    keep_probabilities: bool = False,
) -> ModelScores:
    """Score ``model`` on every set; ``identity`` is the last array's key and its digest.

    Scores on the fixed sets are cached: the version that a batch makes is the control of the next
    batch, which then scores only the rows that were not scored before.
    """
    scored = {
        name: on_set(
            place,
            identity,
            name,
            lambda: model,
            examples,
            keep_probabilities=keep_probabilities and name == "audit",
        )
        for name, examples in fixed.items()
    }
    return ModelScores(forget=_forget(model, forget, forget_rows, keep_probabilities), **scored)


def on_set(
    place: Workspace,
    identity: tuple[str, str],
    name: str,
    model: Callable[[], Classifier],
    examples: Examples,
    *,
    keep_probabilities: bool = False,
) -> Scores:
    """Score a model on one fixed set and cache the scores; ``model`` is called only if needed."""
    key = ("scores", *identity, name, "whole" if keep_probabilities else "")
    found = _completed(model, examples, place.find(key), whole=keep_probabilities)
    place.keep(key, found)
    return found


def describe(model: Classifier, rows: Data) -> dict[str, Any]:
    """Return accuracy and loss of an exact version: nothing was forgotten, so nothing is judged."""
    fixed = sets(rows, [])
    measured = {
        name: figures(verification.score(model, examples)) for name, examples in fixed.items()
    }
    return {
        "verdict": "exact",
        "kind": "anchor",
        "sets": measured,
        "sampled": sampled(rows, fixed),
    }


def sets_of_import(rows: Data) -> dict[str, Examples]:
    """Return the rows on which an imported version is measured: a sample of each split."""
    return _samples(rows, SETS_OF_IMPORT)


def sampled_of_import(rows: Data, fixed: Mapping[str, Examples]) -> dict[str, Any]:
    """Return the samples in ``sets_of_import`` as JSON, like ``sampled``."""
    return _sampled(rows, SETS_OF_IMPORT, fixed)


def figures(scored: Scores) -> dict[str, Any]:
    """Return rows, accuracy and mean loss of one set; None for a set without rows."""
    return {
        "rows": len(scored),
        "accuracy": float(scored.correct.mean()) if len(scored) else None,
        "loss": float(scored.loss.mean()) if len(scored) else None,
    }


def _samples(
    rows: Data, of: _Samples, portion: float = 1.0, *, without: Sequence[int] = ()
) -> dict[str, Examples]:
    return {
        name: rows.sample(which, _limit(rows, which, portion * most), without=without)
        for name, (which, most) in of.items()
    }


def _sampled(
    rows: Data, of: _Samples, fixed: Mapping[str, Examples], portion: float = 1.0
) -> dict[str, Any]:
    return {
        name: {"below": _limit(rows, which, portion * most), "rows": len(fixed[name])}
        for name, (which, most) in of.items()
    }


def _limit(rows: Data, which: int, most: float) -> int:
    return rows.limit(which, round(most), rest=LEAST_LEFT_OUT)


def _forget(
    model: Classifier, forget: Examples, forget_rows: list[int], keep_probabilities: bool
) -> verification.Scores:
    rows = torch.tensor(forget_rows).long().numpy()
    return verification.score(model, forget, rows=rows, keep_probabilities=keep_probabilities)


def _completed(
    model: Callable[[], Classifier], examples: Examples, known: Scores | None, *, whole: bool
) -> Scores:
    """Return scores of ``examples``, taken from ``known`` for the rows that it has."""
    if known is None or examples.rows is None:
        return verification.score(model(), examples, keep_probabilities=whole)
    rows = examples.rows.numpy()
    missing = examples.subset(torch.from_numpy(~np.isin(rows, known.rows)).nonzero()[:, 0])
    if len(missing):
        added = verification.score(model(), missing, keep_probabilities=whole).to_arrays()
        known = Scores.from_arrays(
            {name: np.concatenate([a, added[name]]) for name, a in known.to_arrays().items()}
        )
    order = np.argsort(known.rows, kind="stable")
    return known.take(order[np.searchsorted(known.rows, rows, sorter=order)])
