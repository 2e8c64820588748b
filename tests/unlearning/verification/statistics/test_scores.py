"""Scores of a model on rows, against their definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from unlearning import verification
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions


def iris() -> Examples:
    data = load_iris()
    return Examples(torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target))


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def test_loss_and_correctness_follow_the_definition_row_by_row() -> None:
    # In float64: a float32 product of seven rows is not that of one row to the last digit.
    model = linear().double()
    examples = replace(iris(), x=iris().x.double())
    scores = verification.score(model, examples, batch_size=7, keep_probabilities=True)
    assert scores.probabilities is not None
    for i in range(len(examples)):
        z = model(examples.x[i]).detach().numpy()
        p = np.exp(z) / np.exp(z).sum()
        y = int(examples.y[i])
        assert scores.loss[i] == pytest.approx(-np.log(p[y]), rel=1e-9)
        assert scores.correct[i] == (np.argmax(z) == y)
        assert scores.label[i] == y
        np.testing.assert_allclose(scores.probabilities[i], p, rtol=1e-5)


def test_a_row_that_is_certain_in_float32_still_has_an_ordered_loss() -> None:
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[1.0], [0.0]])
    examples = Examples(torch.tensor([[18.0], [25.0], [30.0]]), torch.zeros(3, dtype=torch.int64))
    in_float32 = nn.functional.cross_entropy(model(examples.x), examples.y, reduction="none")
    loss = verification.score(model, examples).loss
    assert float(in_float32[0].detach()) == 0.0
    assert loss[0] > loss[1] > loss[2] > 0


def test_losses_that_are_not_numbers_rank_last_and_are_told() -> None:
    model = linear()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    scores = verification.score(model, iris())
    assert not scores.finite
    assert np.all(np.isfinite(scores.loss))
    assert verification.score(linear(), iris()).finite


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verification.score(model, iris())
    assert model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_rows_are_named_by_their_place_in_the_dataset_or_by_the_caller() -> None:
    subset = iris().subset(torch.tensor([5, 3, 120]))
    assert verification.score(linear(), subset).rows.tolist() == [5, 3, 120]
    named = verification.score(linear(), subset, rows=np.array([7, 8, 9]))
    assert named.rows.tolist() == [7, 8, 9]
    with pytest.raises(WrongOptions, match="2 row names"):
        verification.score(linear(), subset, rows=np.array([7, 8]))


def test_arrays_give_the_scores_back() -> None:
    subset = iris().subset(torch.arange(0, 150, 10))
    scores = verification.ModelScores(
        forget=verification.score(linear(), subset),
        audit=verification.score(linear(), iris(), keep_probabilities=True),
    )
    arrays = scores.to_arrays()
    again = verification.ModelScores.from_arrays(arrays)
    assert again.retain is None
    assert again.forget.probabilities is None
    assert set(again.to_arrays()) == set(arrays)
    for name, array in again.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


def test_an_empty_set_has_no_scores() -> None:
    scores = verification.score(linear(), iris().subset(torch.zeros(0, dtype=torch.int64)))
    assert len(scores) == 0
    assert scores.finite
