import pytest
import torch
from torch import nn
from torch.nn import functional

from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions


def _examples(n=23, shape=(3, 6, 6), classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator)
    return Examples(x, torch.randint(classes, (n,), generator=generator))


def _network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


def _trained_statistics(model, examples):
    model.train()
    for x, _ in examples.batches(8):
        model(x)
    return model


def _state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_summed_gradient_is_the_sum_of_the_examples_own_gradients():
    model, examples = _trained_statistics(_network(), _examples()), _examples()
    fast = objective.summed_gradient(model, examples, batch_size=5)
    model.eval()
    slow = 0
    for i in range(len(examples)):
        loss = functional.cross_entropy(model(examples.x[i : i + 1]), examples.y[i : i + 1])
        grads = torch.autograd.grad(loss, list(objective.step_parameters(model).values()))
        slow = slow + torch.cat([g.flatten() for g in grads]).double()
    assert fast.dtype == torch.float64
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_gradient_of_a_training_loss_comes_with_the_losses_themselves():
    model, examples = _trained_statistics(_network(), _examples()), _examples()
    given = task.TrainingLoss(0.2, torch.tensor([0.5, 1.0, 2.0, 4.0]))
    total, losses = objective.summed_gradient_and_losses(model, examples, loss=given, batch_size=5)
    plain, weighted, same = objective.weighted_gradient(
        model, examples, lambda losses: losses.square(), loss=given, batch_size=5
    )
    model.eval()
    parameters = list(objective.step_parameters(model).values())
    logits = model(examples.x)
    for found, weights in ((total, 1.0), (plain, 1.0), (weighted, losses.double().square())):
        minimised = (weights * given(logits, examples.y)).sum()
        grads = torch.autograd.grad(minimised, parameters, retain_graph=True)
        expected = torch.cat([g.flatten() for g in grads]).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected = functional.cross_entropy(logits, examples.y, reduction="none").detach()
    for found in (losses, same):
        torch.testing.assert_close(found, expected)


def test_losses_come_in_order_and_do_not_depend_on_the_batch_size():
    model, examples = _network(), _examples().subset(torch.tensor([7, 3, 11, 3]))
    losses = objective.losses(model, examples, batch_size=3)
    model.eval()
    expected = functional.cross_entropy(
        model(examples.x[[7, 3, 11, 3]]), examples.y[[7, 3, 11, 3]], reduction="none"
    )
    torch.testing.assert_close(losses, expected)
    _, with_gradient = objective.summed_gradient_and_losses(model, examples, batch_size=2)
    torch.testing.assert_close(losses, with_gradient)


def test_measuring_leaves_the_model_as_it_was():
    model, examples = _network(), _examples()
    model.train()
    model[3].eval()
    before = _state(model)
    modes = [m.training for m in model.modules()]
    objective.summed_gradient(model, examples)
    objective.losses(model, examples)
    objective.correct(model, examples)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_train_mode_gradients_of_a_batch_norm_network_are_other_ones():
    examples = _examples(n=64)
    model = _trained_statistics(_network(), examples)
    model[3].p = 0.0
    evaluated = objective.summed_gradient(model, examples)
    statistics = model[1].running_mean.clone()
    model.train()
    loss = functional.cross_entropy(model(examples.x), examples.y, reduction="sum")
    grads = torch.autograd.grad(loss, list(objective.step_parameters(model).values()))
    trained = torch.cat([g.flatten() for g in grads]).double()
    assert functional.cosine_similarity(evaluated, trained, dim=0) < 0.99
    # ... and computing them moved the statistics.
    assert not torch.equal(statistics, model[1].running_mean)


def test_batch_norm_affine_is_no_step_parameter_and_other_norms_are():
    names = set(objective.step_parameters(_network()))
    assert names == {"0.weight", "5.weight", "5.bias"}
    assert set(objective.step_parameters(nn.LayerNorm(3))) == {"weight", "bias"}


def test_frozen_parameters_are_no_step_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    assert set(objective.step_parameters(model)) == {"0.bias", "1.weight", "1.bias"}
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(WrongOptions, match="no trainable parameter"):
        objective.step_parameters(model)


def test_flat_vectors_go_back_to_where_they_came_from():
    model, other = _network(0), _network(1)
    flat = objective.flatten(model)
    moved = objective.at(other, flat)
    for name, p in objective.step_parameters(moved).items():
        assert torch.equal(p, dict(model.named_parameters())[name])
        assert torch.equal(p, objective.unflatten(flat, other)[name])
    assert not torch.equal(objective.flatten(other), flat)
    with pytest.raises(WrongOptions, match="step parameters"):
        objective.load(model, flat[:-1])


def test_a_parameter_outside_the_forward_pass_has_zero_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    model.register_parameter("unused", nn.Parameter(torch.ones(5)))
    gradient = objective.summed_gradient(model, _examples())
    pieces = objective.unflatten(gradient, model)
    assert torch.equal(pieces["unused"], torch.zeros(5, dtype=torch.float64))
    assert pieces["1.weight"].abs().sum() > 0


def test_recalibrated_statistics_are_those_of_the_given_rows_alone():
    examples = _examples(n=40)
    model = _trained_statistics(_network(), _examples(n=40, seed=9))
    objective.recalibrate_batch_norm(model, examples, batch_size=20)
    inside = model[0](examples.x)
    torch.testing.assert_close(model[1].running_mean, inside.mean((0, 2, 3)))
    halves = torch.stack([h.var((0, 2, 3)) for h in inside.split(20)]).mean(0)
    torch.testing.assert_close(model[1].running_var, halves)
    assert model[1].momentum == 0.1
    assert model.training


def test_recalibrated_statistics_count_every_row_alike():
    examples = _examples(n=258)
    # Two rows, far off, make up the last batch.
    examples.x[256:] += 20
    model = _network()
    objective.recalibrate_batch_norm(model, examples, batch_size=256)
    inside = model[0](examples.x)
    torch.testing.assert_close(model[1].running_mean, inside.mean((0, 2, 3)))
    first, last = (h.var((0, 2, 3)) for h in inside.split(256))
    torch.testing.assert_close(model[1].running_var, (256 * first + 2 * last) / 258)


def test_recalibration_takes_a_row_left_over_into_the_last_batch():
    examples = _examples(n=41)
    examples.x[40] += 20
    model = _network()
    objective.recalibrate_batch_norm(model, examples, batch_size=20)
    inside = model[0](examples.x)
    torch.testing.assert_close(model[1].running_mean, inside.mean((0, 2, 3)))
    first, last = (h.var((0, 2, 3)) for h in inside.split([20, 21]))
    torch.testing.assert_close(model[1].running_var, (20 * first + 21 * last) / 41)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_to_recalibrate_leave_the_statistics_alone(n):
    model = _trained_statistics(_network(), _examples())
    before = _state(model)
    objective.recalibrate_batch_norm(model, _examples(n=n))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_instance_norm_is_treated_as_batch_norm():
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(108, 4))
    assert set(objective.step_parameters(model)) == {"2.weight", "2.bias"}
    examples = _examples(n=50)
    objective.recalibrate_batch_norm(model, examples, batch_size=20)
    torch.testing.assert_close(norm.running_mean, examples.x.mean((0, 2, 3)))
    within = examples.x.var((2, 3)).mean(0)
    torch.testing.assert_close(norm.running_var, within)


def test_half_precision_logits_give_full_precision_losses():
    logits = torch.randn(6, 3).half()
    loss = task.loss(logits, torch.zeros(6, dtype=torch.int64))
    assert loss.dtype == torch.float32
