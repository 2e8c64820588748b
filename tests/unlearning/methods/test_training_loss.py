"""Methods that follow what the model's training minimised, where it is not the plain loss."""

import pytest
import torch
from torch import nn

from unlearning import methods
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.methods import Context, influence

LOSS = task.TrainingLoss(0.2, torch.tensor([0.5, 1.0, 3.0]))


@pytest.fixture
def given():
    """A small network in float64, rows to forget and retained rows."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x = torch.randn(24, 5, generator=generator, dtype=torch.float64)
    examples = Examples(x, torch.randint(3, (24,), generator=generator))
    return model, examples.subset(torch.arange(4)), examples.subset(torch.arange(4, 24))


def _moved(name, given, loss, **options):
    model, forget, retain = given
    method = methods.get(name)
    update = method.unlearn(
        model,
        forget,
        retain,
        options=method.options(strength="authors", **options),
        context=Context(training_loss=loss),
        generator=torch.Generator().manual_seed(1),
    )
    return objective.flatten(update.model)


def test_fine_tuning_descends_the_training_loss(given):
    model, _, retain = given
    found = _moved("fine_tune", given, LOSS, epochs=1, batch_size=20, learning_rate=0.1)
    parameters = list(model.parameters())
    mean = LOSS(model(retain.x[4:]), retain.y[4:]).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(mean, parameters)])
    torch.testing.assert_close(found, objective.flatten(model) - 0.1 * gradient)


def test_influence_is_that_of_the_training_loss(given):
    model, forget, retain = given
    found = _moved("influence", given, LOSS, damping=0.1)
    options = influence.Options(damping=0.1)
    expected = influence.step(model, forget, retain, retained=20, loss=LOSS, options=options)
    torch.testing.assert_close(found, objective.flatten(model) + expected.x)
    assert not torch.allclose(found, _moved("influence", given, task.PLAIN, damping=0.1))
