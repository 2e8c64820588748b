"""Loss, correctness and margin of classification, against their definitions."""

import math

import pytest
import torch

from unlearning.core import task

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 40.0, 1.0]])
LABELS = torch.tensor([0, 2, 1])


def probabilities(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def test_loss_and_log_probabilities_are_those_of_the_softmax() -> None:
    for i, (row, label) in enumerate(zip(LOGITS.tolist(), LABELS.tolist(), strict=True)):
        p = probabilities(row)
        assert float(task.loss(LOGITS, LABELS)[i]) == pytest.approx(-math.log(p[label]), abs=1e-6)
        found = task.log_probabilities(LOGITS)[i].exp().tolist()
        assert found == pytest.approx(p, rel=1e-5, abs=1e-12)


def test_training_loss_is_the_weighted_cross_entropy_of_smoothed_labels() -> None:
    weights = torch.tensor([0.5, 2.0, 3.0])
    for smoothing, given in ((0.0, None), (0.3, None), (0.0, weights), (0.3, weights)):
        found = task.TrainingLoss(smoothing, given)(LOGITS, LABELS)
        for i, (row, label) in enumerate(zip(LOGITS.tolist(), LABELS.tolist(), strict=True)):
            expected = 0.0
            for c, p in enumerate(probabilities(row)):
                wanted = (1 - smoothing) * (c == label) + smoothing / 3
                expected -= (1.0 if given is None else float(given[c])) * wanted * math.log(p)
            assert float(found[i]) == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert task.PLAIN.is_plain
    assert torch.equal(task.PLAIN(LOGITS, LABELS), task.loss(LOGITS, LABELS))


def test_training_loss_survives_storage() -> None:
    for smoothing, weights in ((0.0, None), (0.1, None), (0.1, torch.tensor([1.0, 2.0]))):
        stored = task.training_loss_from_tensors(task.TrainingLoss(smoothing, weights).to_tensors())
        assert stored.label_smoothing == smoothing
        assert (stored.class_weights is None) == (weights is None)
        assert weights is None or torch.equal(stored.class_weights, weights)


def test_margin_is_the_log_odds_and_finite_where_the_probability_is_one() -> None:
    for i, (row, label) in enumerate(zip(LOGITS.tolist(), LABELS.tolist(), strict=True)):
        others = math.log(sum(math.exp(z) for c, z in enumerate(row) if c != label))
        assert float(task.margin(LOGITS, LABELS)[i]) == pytest.approx(row[label] - others)


def test_margin_of_infinite_logits() -> None:
    inf = math.inf
    logits = torch.tensor([[-inf, 0.0], [0.0, -inf], [-inf, -inf]])
    found = task.margin(logits, torch.zeros(3, dtype=torch.int64)).tolist()
    assert found[:2] == [-inf, inf]
    assert math.isnan(found[2])


def test_correct_is_the_largest_logit() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert task.correct(logits, torch.tensor([1, 1])).tolist() == [True, False]


def test_half_precision_is_widened() -> None:
    assert task.loss(LOGITS.half(), LABELS).dtype == torch.float32
    assert task.log_probabilities(LOGITS.bfloat16()).dtype == torch.float32
