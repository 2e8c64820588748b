"""An exact head on the features of a frozen encoder, beside a logistic regression."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks import results
from benchmarks.memorised.measures import auc
from benchmarks.methods import files
from benchmarks.parts import Found
from benchmarks.progress import Tell
from benchmarks.text import banking
from unlearning import architectures, methods
from unlearning.anchored import margins
from unlearning.architectures import HeadClassifier, Transform
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.heads.ridge import RidgeHead
from unlearning.methods import Context

#: Inverses of the penalty of the logistic regression, of which the validation rows choose one, and
#: its iterations at most.
LOGISTIC_CS, LOGISTIC_ITERATIONS = (1.0, 3.0, 10.0, 30.0), 1000


def measure(encoded: banking.Encoded, sets: dict[str, Tensor], tell: Tell) -> Found:
    """Fit, delete each set, and compare with a fit without it and with a logistic regression."""
    tell(0.0, "features")
    texts, x = encoded.texts, encoded.features()
    held, rows = texts.train + texts.validation, torch.arange(len(x))
    train = Examples(x, texts.y, rows[: texts.train])
    validation = Examples(x, texts.y, rows[texts.train : held])
    test = Examples(x, texts.y, rows[held:])
    tell(0.5, "fits")
    with files.timed() as fitting:
        head = _head(x.shape[1], texts.classes)
        statistics = head.fit_to_minimum(train, validation)
    with files.timed() as logistic_time:
        logistic = _logistic(train, validation)
    theirs = _score(logistic, test)
    ours = _accuracy(head, test)
    deletions, targets = (
        [],
        [
            results.at_most(
                "exact head: test accuracy in points under the logistic regression's",
                100 * (theirs - ours),
                0.5,
            )
        ],
    )
    method = methods.get("downdate")
    for name, gone in sets.items():
        left = torch.ones(len(train), dtype=torch.bool)
        left[gone] = False
        forget, retain = train.subset(gone), train.subset(left.nonzero()[:, 0])
        with files.timed() as deleting:
            update = method.unlearn(
                head,
                forget,
                retain,
                options=method.options(),
                context=Context(statistics=statistics),
                generator=torch.Generator(),
            )
        again = _head(x.shape[1], texts.classes, penalty=float(_ridge(head).penalty))
        with files.timed() as refitting:
            again.fit_to_minimum(retain, validation)
        # A fit with the same choices: the temperature is one of them.
        _ridge(again).temperature.copy_(_ridge(head).temperature)
        updated = update.model
        assert isinstance(updated, HeadClassifier)
        same = torch.equal(_ridge(updated).weight, _ridge(again).weight)
        deletions.append(
            {
                "rows": name,
                "count": len(gone),
                "same_bits": same,
                "forget_accuracy_before": _accuracy(head, forget),
                "forget_accuracy": _accuracy(updated, forget),
                "true_accuracy": _accuracy(updated, Examples(x[gone], texts.true[gone])),
                "test_accuracy": _accuracy(updated, test),
                "calibrated_auc": _apart(updated, again, forget, test),
                "cpu_seconds": deleting.cpu_seconds,
                "fit_over_deletion": refitting.cpu_seconds / deleting.cpu_seconds,
            }
        )
        targets.append(
            results.at_least(
                f"exact head, {name} rows: weights of a fit, bit for bit", float(same), 1.0
            )
        )
    measured = {
        "rows": len(train),
        "classes": texts.classes,
        "fit_cpu_seconds": fitting.cpu_seconds,
        "test_accuracy": ours,
        "logistic_test_accuracy": theirs,
        "logistic_c": logistic.C,
        "logistic_cpu_seconds": logistic_time.cpu_seconds,
        "deletions": deletions,
    }
    results.show(
        f"Exact head: test {ours:.4f}, logistic regression {theirs:.4f}",
        ("rows", "forget before", "after", "by true label", "test", "fit / deletion"),
        [
            (
                d["rows"],
                d["forget_accuracy_before"],
                d["forget_accuracy"],
                d["true_accuracy"],
                d["test_accuracy"],
                d["fit_over_deletion"],
            )
            for d in deletions
        ],
    )
    return measured, targets


def _head(features: int, classes: int, *, penalty: float | None = None) -> HeadClassifier:
    given: dict[str, Any] = {"inputs": features, "classes": classes, "penalty": penalty}
    made = architectures.classifier("ridge", given | {"lift": "random_fourier"}, Transform())
    assert isinstance(made, HeadClassifier)
    return made


def _logistic(train: Examples, validation: Examples) -> LogisticRegression:
    """Return the fit that is best on the validation rows; ties: the stronger penalty."""
    x, y = (one.numpy() for one in (train.x[train.positions], train.labels))
    fits = [LogisticRegression(C=c, max_iter=LOGISTIC_ITERATIONS).fit(x, y) for c in LOGISTIC_CS]
    return max(fits, key=lambda one: _score(one, validation))


def _score(logistic: LogisticRegression, rows: Examples) -> float:
    return float(logistic.score(rows.x[rows.positions].numpy(), rows.labels.numpy()))


def _ridge(head: HeadClassifier) -> RidgeHead:
    assert isinstance(head.network, RidgeHead)
    return head.network


def _accuracy(model: torch.nn.Module, rows: Examples) -> float:
    return float(objective.correct(model, rows).double().mean())


def _apart(
    ours: torch.nn.Module, theirs: torch.nn.Module, forget: Examples, test: Examples
) -> float:
    """Return the calibrated AUC against a fit without the rows: .5 if the two are the same."""
    apart = [margins.of_examples(ours, e) - margins.of_examples(theirs, e) for e in (forget, test)]
    return auc(*apart)
