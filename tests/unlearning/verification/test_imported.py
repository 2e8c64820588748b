"""The rules by which an imported version's statement about its rows is judged."""

from __future__ import annotations

import numpy as np
import pytest

from unlearning.verification import imported
from unlearning.verification.statistics.scores import Scores


def _scores(
    known: float, *, rows: int = 500, classes: int = 5, spread: float = 0.1, seed: int = 0
) -> Scores:
    """Rows of drawn classes whose right class gets ``known`` on average; right where above 0.5."""
    generator = np.random.default_rng(seed)
    probability = np.clip(generator.normal(known, spread, rows), 0.001, 0.999)
    return Scores(
        loss=-np.log(probability),
        correct=probability > 0.5,
        label=generator.integers(classes, size=rows),
        rows=np.arange(rows),
    )


def _outcomes(judged: dict) -> dict[str, str]:
    return {rule["rule"]: rule["outcome"] for rule in judged["rules"]}


def test_training_rows_that_are_known_better_confirm_the_statement() -> None:
    judged = imported.judge(_scores(0.9), _scores(0.8, rows=100, seed=1))
    assert (judged["verdict"], judged["mark"], judged["reasons"]) == ("imported", None, [])
    assert _outcomes(judged) == {"chance": "passed", "own_rows": "passed"}


def test_rows_that_cannot_be_told_apart_are_accepted_and_marked() -> None:
    judged = imported.judge(_scores(0.8), _scores(0.8, rows=100, seed=1))
    assert (judged["verdict"], judged["mark"]) == ("imported", imported.UNCONFIRMED)
    assert _outcomes(judged)["own_rows"] == "no_power"


def test_network_that_knows_audit_rows_better_is_refused() -> None:
    judged = imported.judge(_scores(0.8), _scores(0.95, rows=100, seed=1))
    assert (judged["verdict"], judged["mark"]) == ("failed", None)
    assert "trained on others" in judged["reasons"][0]


def test_network_at_chance_is_refused_with_unbalanced_classes() -> None:
    generator = np.random.default_rng(2)
    label = (generator.random(1000) < 0.05).astype(np.int64)
    always_the_common_one = Scores(
        loss=np.where(label == 0, 0.05, 3.0), correct=label == 0, label=label, rows=np.arange(1000)
    )
    assert always_the_common_one.correct.mean() > 0.9
    judged = imported.judge(always_the_common_one, always_the_common_one)
    assert _outcomes(judged)["chance"] == "failed"
    assert "transform" in judged["reasons"][0]


def test_class_mix_of_splits_does_not_affect_import_rules() -> None:
    """Audit rows are mostly of the class that the network knows well; training rows are not."""
    generator = np.random.default_rng(3)

    def drawn(rows: int, easy_share: float) -> Scores:
        label = (generator.random(rows) < easy_share).astype(np.int64)
        probability = np.clip(generator.normal(np.where(label == 1, 0.95, 0.6), 0.05), 0.01, 0.99)
        return Scores(-np.log(probability), probability > 0.5, label, np.arange(rows))

    training, audit = drawn(2000, 0.2), drawn(400, 0.9)
    assert audit.correct.mean() > training.correct.mean()
    assert np.exp(-audit.loss).mean() > np.exp(-training.loss).mean() + 0.1
    assert imported.judge(training, audit)["verdict"] == "imported"


def test_standard_error_for_one_class_is_that_of_plain_difference() -> None:
    training = _scores(0.8, rows=300, classes=1)
    audit = _scores(0.7, rows=50, classes=1, seed=1)
    found = imported.judge(training, audit)["training_less_audit"]
    known = [np.exp(-one.loss) for one in (training, audit)]
    assert found["value"] == pytest.approx(known[0].mean() - known[1].mean())
    expected = np.sqrt(sum(one.var(ddof=1) / len(one) for one in known))
    assert found["standard_error"] == pytest.approx(expected)


@pytest.mark.parametrize(("training", "audit"), [(9, 100), (100, 9), (100, 0)])
def test_very_few_rows_decide_nothing(training: int, audit: int) -> None:
    judged = imported.judge(_scores(0.8, rows=training), _scores(0.99, rows=audit, seed=1))
    assert (judged["verdict"], judged["mark"]) == ("imported", imported.UNCONFIRMED)


def test_losses_without_bound_decide_nothing_alone() -> None:
    """A few mislabelled training rows with an enormous loss do not refuse a good network."""
    training = _scores(0.9)
    training.loss[:3] = 1e30
    assert imported.judge(training, _scores(0.85, rows=100, seed=1))["verdict"] == "imported"
