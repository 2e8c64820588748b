import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from unlearning.anchored import margins
from unlearning.anchored.margins import Splits
from unlearning.core import options, task, training
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _examples(n, seed=0):
    generator = _generator(seed)
    x = torch.randn(n, 4, generator=generator)
    return Examples(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())


def _fresh(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))


VALIDATION = _examples(20, seed=9)
RECIPE = training.Recipe(epochs=3, patience=3, batch_size=8, alpha=0, learning_rate=0.01)


def _prepare(train, *, trainer=None, splits=2, folds=2, **more):
    return margins.prepare(
        _fresh,
        train,
        VALIDATION,
        trainer=trainer or margins.by_recipe(RECIPE, VALIDATION),
        options=Splits(splits, folds),
        **{"seed": 5, **more},
    )


def _seeing(seen):
    """Return a trainer by the recipe that notes the positions of the rows it is given."""
    by_recipe = margins.by_recipe(RECIPE, VALIDATION)

    def train(model, rows, generator, progress):
        seen.append(set(rows.positions.tolist()))
        return by_recipe(model, rows, generator, progress)

    return train


def test_margin_is_the_log_odds_of_the_label_row_by_row():
    logits = 3 * torch.randn(40, 5, generator=_generator())
    labels = torch.randint(5, (40,), generator=_generator(1))
    found = task.margin(logits, labels)
    assert found.dtype == torch.float64
    for i, (z, y) in enumerate(zip(logits.double().tolist(), labels.tolist(), strict=True)):
        others = math.fsum(math.exp(v) for c, v in enumerate(z) if c != y)
        assert float(found[i]) == pytest.approx(z[y] - math.log(others), abs=1e-12)


def test_margin_stays_exact_where_the_loss_is_zero_in_single_precision():
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    assert float(task.margin(logits, torch.tensor([0]))) == pytest.approx(60 - math.log(2))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([-math.inf, 0.0, 1.0], -math.inf),
        ([2.0, -math.inf, -math.inf], math.inf),
        ([math.inf, 0.0, 0.0], math.inf),
        ([0.0, math.inf, 0.0], -math.inf),
        ([0.0, -math.inf, 1.0], -1.0),
        ([7.0], math.inf),
        ([-math.inf, -math.inf, -math.inf], math.nan),
        ([math.inf, math.inf, 0.0], math.nan),
        ([0.0, math.nan, 0.0], math.nan),
    ],
)
def test_margin_of_infinite_logits(logits, expected):
    found = float(task.margin(torch.tensor([logits]), torch.tensor([0])))
    assert found == pytest.approx(expected, nan_ok=True)


def test_margins_of_examples_are_taken_in_evaluation_mode_and_leave_the_mode_alone():
    model = _fresh(0).train()
    examples = _examples(30)
    found = margins.of_examples(model, examples, batch_size=7)
    assert model.training
    expected = task.margin(model.eval()(examples.x), examples.y)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("folds", [2, 3, 8])
def test_folds_keep_groups_whole_and_are_of_like_size(folds):
    groups = torch.randint(40, (200,), generator=_generator())
    found = margins.assign_folds(groups, folds, generator=_generator(1))
    for group in groups.unique():
        assert len(found[groups == group].unique()) == 1
    sizes = torch.bincount(found, minlength=folds)
    assert int(sizes.max() - sizes.min()) <= int(torch.bincount(groups).max())


def test_fewer_subjects_than_folds_are_refused():
    with pytest.raises(WrongOptions, match="as many subjects"):
        margins.assign_folds(torch.tensor([4, 4, 9]), 3, generator=_generator())


def test_no_model_saw_the_rows_that_it_gives_a_margin_nor_others_of_their_subject():
    train = _examples(30)
    groups = torch.arange(30) // 3
    seen = []
    found = _prepare(train, trainer=_seeing(seen), folds=3, groups=groups)
    for split in range(2):
        for row in range(30):
            rows = seen[3 * split + int(found.fold[split, row])]
            assert not rows & set((groups == groups[row]).nonzero()[:, 0].tolist())
    assert len(seen) == 6
    for split in range(2):
        assert set.union(*seen[3 * split : 3 * split + 3]) == set(range(30))


def test_values_are_those_of_the_models_trained_without_the_rows():
    train = _examples(24)
    models = []

    def trainer(model, rows, generator, progress):
        models.append((model, rows))
        return margins.by_recipe(RECIPE, VALIDATION)(model, rows, generator, progress)

    found = _prepare(train, trainer=trainer)
    assert found.complete
    for split in range(2):
        for fold in range(2):
            model, rows = models[2 * split + fold]
            out = (found.fold[split] == fold).nonzero()[:, 0]
            assert not set(rows.positions.tolist()) & set(out.tolist())
            torch.testing.assert_close(
                found.values[split, out], margins.of_examples(model, train.subset(out))
            )
            torch.testing.assert_close(
                found.held_out[split, fold], margins.of_examples(model, VALIDATION)
            )


def test_a_row_changes_only_margins_of_models_that_saw_it():
    """What a row's own out-of-fold margin says does not depend on its label."""
    train = _examples(24)
    other = Examples(train.x, train.y.clone())
    other.y[3] = (other.y[3] + 1) % 3
    first, second = _prepare(train), _prepare(other)
    for split in range(2):
        beside = first.fold[split] == first.fold[split, 3]
        beside[3] = False
        assert torch.equal(first.values[split, beside], second.values[split, beside])
        away = first.fold[split] != first.fold[split, 3]
        assert not torch.equal(first.values[split, away], second.values[split, away])


class Stop(Exception):
    """Raised to cancel."""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(after):
    train = _examples(24)
    whole = _prepare(train)
    states = []

    def kept(state):
        states.append(margins.from_tensors(state.to_tensors()))
        if len(states) == after:
            raise Stop

    with pytest.raises(Stop):
        _prepare(train, kept=kept)
    assert not states[-1].complete
    assert int(states[-1].values.isnan().sum()) > 0
    seen = []
    resumed = _prepare(train, done=states[-1], trainer=_seeing(seen))
    assert len(seen) == 4 - after
    for name, tensor in whole.to_tensors().items():
        assert torch.equal(tensor, resumed.to_tensors()[name])


def test_cancelling_in_the_middle_of_a_training_keeps_the_models_before():
    train = _examples(24)
    states = []

    def progress(fraction):
        if fraction > 0.3:
            raise Stop

    with pytest.raises(Stop):
        _prepare(train, kept=states.append, progress=progress)
    assert [int((s.epochs > 0).sum()) for s in states] == [1]
    resumed = _prepare(train, done=states[-1])
    assert torch.equal(resumed.values, _prepare(train).values)


def test_a_split_is_the_same_however_many_are_asked_for():
    train = _examples(24)
    one, two = _prepare(train, splits=1), _prepare(train, splits=2)
    assert torch.equal(one.values[0], two.values[0])
    assert not torch.equal(two.values[0], two.values[1])


def test_seed_decides():
    train = _examples(24)
    assert torch.equal(_prepare(train, seed=1).values, _prepare(train, seed=1).values)
    assert not torch.equal(_prepare(train, seed=1).values, _prepare(train, seed=2).values)


def test_cost_counts_epochs_over_all_rows():
    found = _prepare(_examples(24), splits=2, folds=3)
    assert (found.epochs == RECIPE.epochs).all()
    # Three models of two thirds of the rows, twice.
    assert found.cost == pytest.approx(2 * 2 * RECIPE.epochs)


def test_no_splits_cost_nothing():
    found = _prepare(_examples(24), splits=0)
    assert found.values.shape == (0, 24)
    assert found.cost == 0


def test_a_state_of_other_rows_is_refused():
    state = _prepare(_examples(24))
    with pytest.raises(WrongOptions, match="start again"):
        _prepare(_examples(25), done=state)


def test_ranges_and_defaults_are_those_of_the_document():
    text = (Path(__file__).parents[3] / "docs" / "matched-step.md").read_text()
    stated = re.findall(r"`(splits|folds)` \((\d+) to (\d+), default (\d+)", text)
    named = options.schema(Splits)["properties"]
    assert {name: tuple(map(int, numbers)) for name, *numbers in stated} == {
        name: (one["minimum"], one["maximum"], one["default"]) for name, one in named.items()
    }
