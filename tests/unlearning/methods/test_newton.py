"""``newton`` on real rows: within its bound of a fit without them, and refused where it is not."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from unlearning import architectures, inputs, methods
from unlearning.architectures import Transform
from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, NothingRetained, WrongOptions
from unlearning.heads import certificate, logistic, statistics
from unlearning.heads.linear import ABSENT
from unlearning.heads.statistics import BadStatistics
from unlearning.methods import Context

ROWS = 600


def _head(kind=None, **parameters):
    return architectures.classifier("logistic", parameters, Transform(scale=1 / 64), kind=kind)


def _digits():
    data = load_digits()
    return Examples(
        torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target, dtype=torch.int64)
    )


def _fit(head, rows):
    return training.fit(
        head,
        rows,
        _digits().subset(torch.arange(1500, 1700)),
        recipe=training.Recipe(),
        generator=torch.Generator(),
    )


@pytest.fixture(scope="module")
def fitted():
    return _fit(_head(), _digits().subset(torch.arange(ROWS)))


def _newton(fit, forget, retain, *, options=None, **context):
    method = methods.get("newton")
    context = {"statistics": fit.statistics} | context
    return method.unlearn(
        fit.model,
        forget,
        retain,
        options=method.options(**(options or {})),
        context=Context(**context),
        generator=torch.Generator(),
    )


def _split(forgotten, rows=ROWS):
    everything = _digits()
    left = torch.ones(rows, dtype=torch.bool)
    left[forgotten] = False
    return everything.subset(forgotten), everything.subset(left.nonzero()[:, 0])


def _after(fit, update):
    return dataclasses.replace(fit, model=update.model, statistics=update.statistics)


def _weights(model):
    return model.network.weight.detach()


def _solved_by_scipy(head, rows, start):
    """Weights (classes, d) of the minimum by Newton-CG on values that SciPy is given as numpy."""
    q = head.network.features(rows.x[rows.positions] / 64).numpy()
    y, penalty = rows.labels.numpy(), float(head.network.penalty)
    classes, features = start.shape
    indicators = np.eye(classes)[y]

    def probabilities(flat):
        scores = q @ flat.reshape(classes, features).T
        scores -= scores.max(1, keepdims=True)
        return scores, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)

    def value(flat):
        scores, _ = probabilities(flat)
        label = scores[np.arange(len(y)), y]
        return (np.log(np.exp(scores).sum(1)) - label).sum() + penalty / 2 * flat @ flat

    def slope(flat):
        return ((probabilities(flat)[1] - indicators).T @ q).ravel() + penalty * flat

    def times(flat, vector):
        p = probabilities(flat)[1]
        moved = q @ vector.reshape(classes, features).T
        second = p * (moved - (p * moved).sum(1, keepdims=True))
        return (second.T @ q).ravel() + penalty * vector

    found = minimize(
        value, start.ravel(), jac=slope, hessp=times, method="trust-krylov", options={"gtol": 1e-6}
    ).x
    # Two Newton steps: values alone are too coarse to come nearer.
    for _ in range(2):
        p = probabilities(found)[1]
        hessian = np.zeros((classes, features, classes, features))
        for a in range(classes):
            for b in range(classes):
                hessian[a, :, b] = (q * (p[:, a] * ((a == b) - p[:, b]))[:, None]).T @ q
        square = hessian.reshape(len(found), -1) + penalty * np.eye(len(found))
        found = found - np.linalg.solve(square, slope(found))
    return torch.from_numpy(found.reshape(classes, features))


@pytest.mark.seconds
def test_hundred_deletions_one_by_one_stay_within_their_bounds_of_an_independent_minimum():
    everything = _digits()
    few = (everything.labels < 3).nonzero()[:, 0][:300]
    table = Examples(everything.x[few][:, 10:30], everything.labels[few])

    def rows(kept):
        return table.subset(kept)

    head = _head(inputs=20, classes=3, penalty=0.1)
    fit = training.fit(
        head,
        rows(torch.arange(250)),
        rows(torch.arange(250, 300)),
        recipe=training.Recipe(),
        generator=torch.Generator(),
    )
    start = np.zeros((3, 21))
    order = torch.randperm(250, generator=torch.Generator().manual_seed(4))[:100]
    left = torch.ones(250, dtype=torch.bool)
    for going in order.split(1):
        left[going] = False
        retain = rows(left.nonzero()[:, 0])
        update = _newton(fit, rows(going), retain)
        fit = _after(fit, update)
        independent = _solved_by_scipy(fit.model, retain, start)
        start = independent.numpy()
        distance = float((_weights(fit.model) - independent).norm())
        said = update.certificate
        assert distance <= said["distance_bound"] < 1e-8
        assert said["distance_bound"] == (said["gradient_norm"] + said["rounding"]) / 0.1


@pytest.mark.seconds
def test_deletion_reads_the_rows_fifteen_times_less_often_than_a_search_from_zero(fitted):
    forget, retain = _split(torch.tensor([11]))
    update = _newton(fitted, forget, retain)
    posed = update.model.problem(update.statistics, retain)
    from_zero = logistic.minimum(
        posed,
        torch.zeros(65, 10, dtype=torch.float64),
        logistic.by_bound(update.statistics.gram, posed),
    )
    assert 15 * update.notes["passes"] <= from_zero.passes


def test_weights_are_within_the_two_bounds_of_a_fit_without_the_rows(fitted):
    forget, retain = _split(torch.arange(3, ROWS, 31))
    update = _newton(fitted, forget, retain)
    penalty = float(fitted.model.network.penalty)
    assert penalty in logistic.LADDER
    again = _fit(_head(penalty=penalty), retain)
    slope = again.model.slope(again.statistics, retain)
    both = update.certificate["distance_bound"] + (slope.norm + slope.rounding) / penalty
    assert update.is_anchor
    assert 0 < float((_weights(update.model) - _weights(again.model)).norm()) <= both < 1e-7
    assert update.statistics.digest() == again.statistics.digest()
    assert certificate.faults(update.certificate) == []


@pytest.mark.seconds
def test_kept_factor_is_of_the_new_minimum_and_not_of_the_old_one(fitted):
    forget, retain = _split(torch.arange(0, ROWS, 7))
    update = _newton(fitted, forget, retain)
    again = _fit(_head(penalty=float(fitted.model.network.penalty)), retain)
    hessians = [
        factor.double() @ factor.double().T
        for factor in (update.statistics.factor, again.statistics.factor, fitted.statistics.factor)
    ]
    near, far = ((hessians[0] - other).norm() for other in hessians[1:])
    assert near < 1e-2 * far


@pytest.mark.seconds
def test_head_with_too_many_weights_for_a_factor_keeps_none_and_is_within_its_bound(monkeypatch):
    monkeypatch.setattr(logistic, "MOST_FACTORED", 0)
    fit = _fit(_head(penalty=1.0), _digits().subset(torch.arange(ROWS)))
    assert fit.statistics.factor is None
    forget, retain = _split(torch.arange(5))
    update = _newton(fit, forget, retain)
    assert update.statistics.factor is None
    again = _fit(_head(penalty=1.0), retain)
    distance = float((_weights(update.model) - _weights(again.model)).norm())
    assert distance <= 2 * update.certificate["distance_bound"]


def test_class_that_is_gone_has_no_probability(fitted):
    of_class = (_digits().labels[:ROWS] == 4).nonzero()[:, 0]
    forget, retain = _split(of_class)
    model = _newton(fitted, forget, retain, kind="class").model
    assert float(objective.logits(model, retain).softmax(1)[:, 4].max()) == 0
    assert model.network.offset.tolist() == [ABSENT if c == 4 else 0.0 for c in range(10)]
    assert not _weights(model)[4].any()


def test_given_model_is_not_changed(fitted):
    before = copy.deepcopy(fitted.model.state_dict())
    digest = fitted.statistics.digest()
    _newton(fitted, *_split(torch.arange(40)))
    assert all(torch.equal(t, before[name]) for name, t in fitted.model.state_dict().items())
    assert fitted.statistics.digest() == digest


def test_rows_that_came_later_join(fitted):
    update = _newton(fitted, *_split(torch.tensor([1]), rows=ROWS + 50))
    assert update.certificate["rows_added"] == 50
    assert update.certificate["rows_after"] == ROWS + 49


def test_what_it_cannot_certify_is_refused(fitted):
    forget, retain = _split(torch.arange(4))
    with pytest.raises(NeedsRetrain, match="no statistics"):
        _newton(fitted, forget, retain, statistics=None)
    with pytest.raises(NothingRetained):
        _newton(fitted, forget, retain.subset(torch.arange(0)))
    twice = _after(fitted, _newton(fitted, forget, retain))
    with pytest.raises(NeedsRetrain, match="not in the statistics"):
        _newton(twice, forget, retain)
    encoded_anew = forget.x.clone()
    encoded_anew[forget.rows[0], 7] += 2.0**-8
    with pytest.raises(NeedsRetrain, match="not as it was"):
        _newton(fitted, *(dataclasses.replace(one, x=encoded_anew) for one in (forget, retain)))
    with pytest.raises(NeedsRetrain, match="above max_distance"):
        _newton(fitted, forget, retain, options={"max_distance": 1e-15})
    ridge = architectures.classifier("ridge", {}, Transform())
    with pytest.raises(WrongOptions, match="needs a head"):
        _newton(dataclasses.replace(fitted, model=ridge), forget, retain)


def test_features_of_another_encoder_are_refused():
    def of(encoder):
        return _head(inputs.kind("features", {"encoder": encoder}), penalty=1.0)

    fit = _fit(of("a" * 64), _digits().subset(torch.arange(ROWS)))
    other = of("b" * 64)
    other.load_state_dict(fit.model.state_dict())
    split = _split(torch.arange(4))
    with pytest.raises(NeedsRetrain, match="by another encoder"):
        _newton(dataclasses.replace(fit, model=other), *split)
    assert _newton(fit, *split).certificate["rows_deleted"] == 4


@pytest.mark.parametrize("name", ["gram", "moments", "held", "marks", "factor", "bits"])
def test_flipped_bit_in_the_statistics_is_seen_or_changes_no_result(fitted, name):
    """A bit of the factor may only cost passes: it decides the way to the minimum, not the end."""
    forget, retain = _split(torch.arange(4))
    expected = _newton(fitted, forget, retain)
    tensors = {key: tensor.clone() for key, tensor in fitted.statistics.to_tensors().items()}
    flat = tensors[name].view(-1).view(torch.uint8)
    place = len(flat) // 2 // 8 * 8 if name != "factor" else 0
    flat[place] ^= 1
    try:
        damaged = statistics.from_tensors(tensors)
        update = _newton(fitted, forget, retain, statistics=damaged)
    except (BadStatistics, NeedsRetrain):
        return
    assert name in {"factor", "marks"}
    distance = float((_weights(update.model) - _weights(expected.model)).norm())
    assert distance <= 2 * expected.certificate["distance_bound"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"gradient_norm": 1e-3}, "not that of the gradient"),
        ({"gradient_norm": 1e-3, "distance_bound": 1.0}, "too far from the minimum"),
        ({"rounding": 0.0}, "not a size"),
        ({"penalty": 0.0}, "penalty is not above 0"),
        ({"rows_deleted": 3}, "did not fall"),
    ],
)
def test_certificate_with_a_changed_number_does_not_hold(fitted, change, fault):
    said = _newton(fitted, *_split(torch.arange(4))).certificate
    assert any(fault in found for found in certificate.faults(said | change))
