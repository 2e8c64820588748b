"""Mini-batches: every row once, none alone, whatever is left after a deletion."""

import pytest
import torch
from torch import nn

from unlearning import methods
from unlearning.anchored import preparation
from unlearning.core import objective, training
from unlearning.core.examples import Examples, pieces
from unlearning.core.training import Recipe
from unlearning.errors import Diverged, WrongOptions
from unlearning.methods import Context


def table(count, *, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    x = torch.randn(count, 6, generator=generator) + 2 * nn.functional.one_hot(y, 6)
    return Examples(x, y)


def normed(seed=0):
    """Batch normalisation over single numbers, which refuses a batch of one row in train mode."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def fit(model, train, recipe):
    return training.fit(
        model, train, table(30, seed=1), recipe=recipe, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 64, 65, 161])
@pytest.mark.parametrize("size", [1, 2, 32, 1000])
def test_every_row_is_in_one_batch_and_none_is_alone(count, size):
    cut = pieces(count, size)
    assert [i for here in cut for i in range(count)[here]] == list(range(count))
    lengths = [here.stop - here.start for here in cut]
    assert max(lengths, default=0) <= size + 1
    assert size == 1 or count == 1 or 1 not in lengths


@pytest.mark.parametrize("alpha", [0.0, 0.005])
@pytest.mark.parametrize("restriction", ["finite_difference", "double_backward"])
def test_batch_norm_trains_on_one_row_more_than_full_batches(alpha, restriction):
    recipe = Recipe(epochs=2, batch_size=32, alpha=alpha, restriction=restriction)
    fitted = fit(normed(), table(161), recipe)
    assert torch.isfinite(objective.flatten(fitted.model)).all()


#: Without those of fitted heads, and the one whose log a plain training does not write.
OF_NETWORKS = [
    name
    for name in methods.names()
    if "statistics" not in methods.get(name).needs and name != "amnesiac"
]


@pytest.mark.parametrize("name", OF_NETWORKS)
def test_every_method_takes_a_remainder_of_one_row(name):
    """Of 192 rows, 31 are forgotten: 161 are left; then all but one of a class are."""
    rows, recipe = table(192), Recipe(epochs=2, batch_size=32, learning_rate=0.01)
    model = fit(normed(), rows, recipe).model
    method = methods.get(name)
    options = method.options()
    if hasattr(options, "batch_size"):
        options = method.options(batch_size=32)
    for forgotten in (torch.arange(31), torch.arange(3, 192, 3)):
        kept = torch.ones(192, dtype=torch.bool)
        kept[forgotten] = False
        updated = method.unlearn(
            model,
            rows.subset(forgotten),
            rows.subset(kept.nonzero()[:, 0]),
            options=options,
            context=Context(calibration=table(30, seed=1), fresh=normed, recipe=recipe),
            generator=torch.Generator().manual_seed(0),
        )
        assert torch.isfinite(objective.flatten(updated.model)).all()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_rows_can_be_trained_on_and_prepared(count):
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    rows = table(count)
    fitted = fit(plain, rows, Recipe(epochs=2, batch_size=32))
    generator = torch.Generator().manual_seed(0)
    prepared = preparation.prepare(fitted.model, rows, table(30, seed=1), generator=generator)
    assert prepared.count == count


def test_single_row_under_batch_norm_is_refused_with_the_ways_out():
    with pytest.raises(WrongOptions, match="add rows, choose an architecture without it"):
        fit(normed(), table(1), Recipe(epochs=1))


def test_batches_of_one_under_batch_norm_are_refused_by_the_option():
    with pytest.raises(WrongOptions, match=r"recipe\.batch_size to 2"):
        fit(normed(), table(8), Recipe(epochs=1, batch_size=1))


def test_batch_norm_over_positions_takes_batches_of_one():
    network = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    fitted = fit(network, table(8), Recipe(epochs=1, batch_size=1))
    assert torch.isfinite(objective.flatten(fitted.model)).all()


def test_training_that_diverges_says_when_and_what_to_lower():
    rows = table(60)
    rows = Examples(rows.x * 1e4, rows.y)
    recipe = Recipe(epochs=50, batch_size=16, optimiser="sgd", learning_rate=10.0, alpha=0.0)
    network = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3))
    told = []
    with pytest.raises(Diverged, match=r"in epoch \d+; lower the learning rate \(recipe\.l"):
        training.fit(
            network,
            rows,
            table(30, seed=1),
            recipe=recipe,
            generator=torch.Generator().manual_seed(0),
            ended=lambda _epoch, reached: told.append(reached.training_loss),
        )
    assert all(loss == loss and loss != float("inf") for loss in told)


def test_infinite_validation_loss_ends_a_training_too():
    class Overflows(nn.Module):
        """Numbers that only the validation rows bring."""

        def __init__(self):
            super().__init__()
            self.last = nn.Linear(6, 3)

        def forward(self, x):
            out = self.last(x)
            return out if self.training else out / 0.0

    with pytest.raises(Diverged, match=r"the validation loss became NaN in epoch 1"):
        fit(Overflows(), table(8), Recipe(epochs=3))
