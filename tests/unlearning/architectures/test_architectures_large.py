import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from unlearning import architectures
from unlearning.architectures import Transform
from unlearning.core import objective
from unlearning.core.examples import Examples

LARGE = ["all_cnn", "resnet18", "vgg19"]


def _small(name, **parameters):
    return architectures.classifier(
        name,
        {"channels": 1, "width": 4, **parameters},
        Transform(scale=1 / 16),
        generator=torch.Generator().manual_seed(0),
    )


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    return Examples(images, torch.tensor(data.target))


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_173_962), ("vgg19", 20_035_018)])
def test_default_size_is_that_of_the_literature(name, parameters):
    spec = architectures.parameter_spec(name, {})
    counted = {key: shape for key, (shape, _) in spec.items() if not _is_statistic(key)}
    assert sum(torch.Size(shape).numel() for shape in counted.values()) == parameters


def test_all_cnn_has_the_nine_layers_of_the_paper():
    spec = architectures.parameter_spec("all_cnn", {"batch_norm": False})
    shapes = [shape for shape, _ in spec.values() if len(shape) > 1]
    assert [s[0] for s in shapes] == [96, 96, 96, 192, 192, 192, 192, 192, 10]
    assert sum(torch.Size(shape).numel() for shape, _ in spec.values()) == 1_369_738


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 33, 47), (2, 5, 9)])
def test_any_image_size_is_classified(name, shape):
    model = architectures.classifier(
        name, {"channels": shape[0], "classes": 7, "width": 2}, Transform()
    )
    assert model.eval()(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", LARGE)
def test_convolutions_before_batch_norm_have_no_bias(name):
    names = architectures.parameter_spec(name, {"width": 2})
    biased = {key.removesuffix(".bias") for key in names if key.endswith(".bias")}
    convolutions = {key.removesuffix(".weight") for key, (s, _) in names.items() if len(s) == 4}
    assert not biased & convolutions


@pytest.mark.seconds
@pytest.mark.parametrize("name", LARGE)
def test_small_network_learns_digits(name, digits):
    model = _small(name)
    train, test = digits.subset(torch.arange(1200)), digits.subset(torch.arange(1200, 1797))
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range({"resnet18": 3, "all_cnn": 8, "vgg19": 10}[name]):
        for x, y in train.batches(64, generator=generator):
            optimiser.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    objective.recalibrate_batch_norm(model, train)
    assert objective.correct(model, test).double().mean() > 0.8


@pytest.mark.parametrize("name", LARGE)
def test_train_mode_gradients_are_others_and_move_the_statistics(name, digits):
    rows = digits.subset(torch.arange(16))
    model = _small(name)
    objective.recalibrate_batch_norm(model, digits.subset(torch.arange(500)))
    before = copy.deepcopy(model.state_dict())

    frozen = objective.summed_gradient(model, rows)
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())

    model.train()
    parameters = list(objective.step_parameters(model).values())
    loss = functional.cross_entropy(model(rows.x[:16]), rows.y[:16], reduction="sum")
    moving = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
    assert functional.cosine_similarity(frozen.float(), moving, dim=0) < 0.9
    after = model.state_dict()
    assert any(not torch.equal(before[key], t) for key, t in after.items() if _is_statistic(key))


def _is_statistic(key):
    return key.rsplit(".")[-1] in {"running_mean", "running_var", "num_batches_tracked"}
