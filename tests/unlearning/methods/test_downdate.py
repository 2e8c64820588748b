"""``downdate`` on real rows: equal to a fit without them, and refused where it would not be."""

import copy
import dataclasses

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from unlearning import architectures, methods
from unlearning.architectures import Transform
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, NothingRetained, WrongOptions
from unlearning.heads import certificate
from unlearning.heads.linear import ABSENT
from unlearning.heads.ridge import LADDER
from unlearning.methods import Context

ROWS = 1200


def _head(**parameters):
    return architectures.classifier("ridge", parameters, Transform(scale=1 / 16))


def _digits():
    data = load_digits()
    return Examples(
        torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target, dtype=torch.int64)
    )


def _fit(head, rows):
    return training.fit(
        head,
        rows,
        _digits().subset(torch.arange(ROWS, 1500)),
        recipe=training.Recipe(),
        generator=torch.Generator(),
    )


@pytest.fixture(scope="module")
def fitted():
    return _fit(_head(), _digits().subset(torch.arange(ROWS)))


def _downdate(fit, forget, retain, **context):
    method = methods.get("downdate")
    context = {"statistics": fit.statistics} | context
    return method.unlearn(
        fit.model,
        forget,
        retain,
        options=method.options(),
        context=Context(**context),
        generator=torch.Generator(),
    )


def _split(forgotten, rows=ROWS):
    everything = _digits()
    left = torch.ones(rows, dtype=torch.bool)
    left[forgotten] = False
    return everything.subset(forgotten), everything.subset(left.nonzero()[:, 0])


@pytest.mark.parametrize("lift", ["none", "random_fourier"])
def test_weights_are_those_of_a_fit_without_the_rows_bit_for_bit(lift):
    parameters = {"lift": lift, "lift_features": 128, "penalty": 0.1, "bandwidth": 2.0}
    whole = _fit(_head(**parameters), _digits().subset(torch.arange(ROWS)))
    forget, retain = _split(torch.arange(3, ROWS, 31))
    update = _downdate(whole, forget, retain)
    again = _fit(_head(**parameters), retain)
    assert update.is_anchor
    assert torch.equal(update.model.network.weight, again.model.network.weight)
    assert update.statistics.digest() == again.statistics.digest()
    assert certificate.faults(update.certificate) == []


def test_deletions_one_by_one_and_a_return_end_where_one_deletion_does(fitted):
    forget, retain = _split(torch.tensor([5, 9, 700]))
    at_once = _downdate(fitted, forget, retain)
    by_one = fitted
    # 700 is retained again in between.
    for going, without in ((9, [9]), (700, [9, 700]), (5, [9, 5]), (700, [9, 5, 700])):
        forgotten = _digits().subset(torch.tensor([going]))
        update = _downdate(by_one, forgotten, _split(torch.tensor(without))[1])
        by_one = dataclasses.replace(fitted, model=update.model, statistics=update.statistics)
    assert by_one.statistics.digest() == at_once.statistics.digest()
    assert torch.equal(by_one.model.network.weight, at_once.model.network.weight)


def test_fit_is_that_of_scikit_learn(fitted):
    rows = _digits().subset(torch.arange(ROWS))
    features = fitted.model.network.features(rows.x[:ROWS] / 16)
    penalty = float(fitted.model.network.penalty)
    indicators = torch.nn.functional.one_hot(rows.labels, 10).double()
    other = Ridge(alpha=penalty, fit_intercept=False).fit(features, indicators)
    ours = fitted.model.network.weight.detach()
    torch.testing.assert_close(ours, torch.tensor(other.coef_), rtol=1e-7, atol=1e-9)
    assert penalty in LADDER


def test_lifted_head_is_better_than_a_linear_one(fitted):
    lifted = _fit(
        _head(lift="random_fourier", lift_features=512, bandwidth=2.0),
        _digits().subset(torch.arange(ROWS)),
    )
    test = _digits().subset(torch.arange(1500, 1797))
    right = [int(objective.correct(fit.model, test).sum()) for fit in (lifted, fitted)]
    assert right[0] > right[1]


def test_class_that_is_gone_has_no_probability(fitted):
    of_class = (_digits().labels[:ROWS] == 4).nonzero()[:, 0]
    forget, retain = _split(of_class)
    model = _downdate(fitted, forget, retain, kind="class").model
    probabilities = objective.logits(model, retain).softmax(1)
    assert float(probabilities[:, 4].max()) == 0
    assert model.network.offset.tolist() == [ABSENT if c == 4 else 0.0 for c in range(10)]


def test_given_model_is_not_changed(fitted):
    before = copy.deepcopy(fitted.model.state_dict())
    digest = fitted.statistics.digest()
    _downdate(fitted, *_split(torch.arange(40)))
    assert all(torch.equal(t, before[name]) for name, t in fitted.model.state_dict().items())
    assert fitted.statistics.digest() == digest


def test_what_it_cannot_do_exactly_is_refused(fitted):
    forget, retain = _split(torch.arange(4))
    with pytest.raises(NeedsRetrain, match="no statistics"):
        _downdate(fitted, forget, retain, statistics=None)
    with pytest.raises(NothingRetained):
        _downdate(fitted, forget, retain.subset(torch.arange(0)))
    once = _downdate(fitted, forget, retain)
    twice = dataclasses.replace(fitted, model=once.model, statistics=once.statistics)
    with pytest.raises(NeedsRetrain, match="not in the statistics"):
        _downdate(twice, forget, retain)
    overwritten = forget.x.clone()
    overwritten[forget.rows] = 0
    with pytest.raises(NeedsRetrain, match="not as it was"):
        _downdate(fitted, *(dataclasses.replace(one, x=overwritten) for one in (forget, retain)))
    relabelled = retain.y.clone()
    relabelled[900] = (relabelled[900] + 1) % 10
    with pytest.raises(NeedsRetrain, match="not those of the retained rows"):
        _downdate(fitted, *(dataclasses.replace(one, y=relabelled) for one in (forget, retain)))
    mlp = architectures.classifier("mlp", {"inputs": 64}, Transform())
    with pytest.raises(WrongOptions, match="needs a head"):
        _downdate(dataclasses.replace(fitted, model=mlp), forget, retain)


def test_rows_that_came_later_are_added(fitted):
    update = _downdate(fitted, *_split(torch.tensor([1]), rows=ROWS + 50))
    again = _fit(
        _head(penalty=float(fitted.model.network.penalty)), _split(torch.tensor([1]), ROWS + 50)[1]
    )
    assert update.certificate["rows_added"] == 50
    assert torch.equal(update.model.network.weight, again.model.network.weight)


def test_features_that_are_not_finite_or_too_large_are_refused():
    rows = _digits().subset(torch.arange(100))
    wrong = rows.x.clone()
    wrong[7, 3] = torch.inf
    with pytest.raises(WrongOptions, match="not finite"):
        _fit(_head(), dataclasses.replace(rows, x=wrong))
    with pytest.raises(WrongOptions, match="grid_bits lower"):
        _fit(_head(), dataclasses.replace(rows, x=rows.x * 2**22))
