import sys
import textwrap

import pytest
import torch

from unlearning import architectures
from unlearning.architectures import Transform
from unlearning.errors import BadDeclaration, UnknownName, WrongOptions


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 31, 47), (2, 9, 40)])
def test_lenet5_classifies_every_image_size_from_8_pixels_up(shape):
    channels, height, width = shape
    parameters = {
        "channels": channels,
        "image_height": height,
        "image_width": width,
        "classes": 7,
    }
    model = architectures.classifier("lenet5", parameters, Transform())
    assert model(torch.rand(5, *shape)).shape == (5, 7)


def test_lenet5_on_cifar_is_the_network_of_the_literature():
    spec = architectures.parameter_spec("lenet5", {})
    assert sum(torch.Size(shape).numel() for shape, _ in spec.values()) == 62_006


def test_lenet5_width_scales_every_hidden_layer():
    wide = architectures.parameter_spec("lenet5", {"width": 12})
    shapes = [shape for shape, _ in wide.values() if len(shape) > 1]
    assert [s[0] for s in shapes] == [12, 32, 240, 168, 10]


def test_lenet5_says_that_an_image_is_too_small():
    with pytest.raises(WrongOptions, match="at least 8 × 8"):
        architectures.classifier("lenet5", {"image_height": 7, "image_width": 30}, Transform())


def test_mlp_flattens_images_and_takes_any_hidden_widths():
    parameters = {"inputs": 12, "hidden": [5, 4], "classes": 3}
    model = architectures.classifier("mlp", parameters, Transform())
    assert model(torch.rand(2, 3, 2, 2)).shape == (2, 3)
    linear = architectures.classifier("mlp", {"inputs": 12, "hidden": []}, Transform())
    assert set(linear.network.state_dict()) == {"1.weight", "1.bias"}


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_parameter_spec_is_what_a_checkpoint_holds(name):
    state = architectures.classifier(name, {}, Transform()).network.state_dict()
    spec = architectures.parameter_spec(name, {})
    assert spec == {key: (tuple(t.shape), "float32") for key, t in state.items()}


def test_transform_is_applied_per_channel_to_stored_bytes():
    transform = Transform(scale=1 / 255, mean=(0.5, 0.25), std=(0.2, 0.4))
    model = architectures.classifier(
        "mlp", {"inputs": 2 * 3 * 3, "hidden": [], "classes": 2}, transform
    )
    x = torch.randint(256, (4, 2, 3, 3), dtype=torch.uint8)
    mean = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    std = torch.tensor([0.2, 0.4]).view(1, 2, 1, 1)
    expected = model.network((x.float() / 255 - mean) / std)
    torch.testing.assert_close(model(x), expected)


def test_transform_is_not_part_of_the_state():
    model = architectures.classifier("mlp", {}, Transform(mean=(0.1,), std=(0.3,)))
    assert all(name.startswith("network.") for name in model.state_dict())


@pytest.mark.parametrize(
    "transform",
    [Transform(std=(0.0,)), Transform(mean=(0.1, 0.2), std=(1.0, 1.0, 1.0)), Transform(mean=())],
)
def test_unusable_transforms_are_refused(transform):
    with pytest.raises(WrongOptions):
        architectures.classifier("mlp", {}, transform)


def test_same_generator_gives_same_weights_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [
        architectures.classifier(
            "lenet5", {}, Transform(), generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(3), expected)
    first, second, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_unknown_names_and_parameters_are_answered_with_what_there_is():
    with pytest.raises(UnknownName, match="lenet5"):
        architectures.get("lenet6")
    with pytest.raises(WrongOptions, match="image_height"):
        architectures.classifier("lenet5", {"height": 28}, Transform())
    with pytest.raises(WrongOptions, match="classes"):
        architectures.classifier("lenet5", {"classes": 1}, Transform())


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of somebody else's, as pip would have left it."""
    (tmp_path / "their_nets.py").write_text(
        textwrap.dedent(
            '''
            """A linear model of their own."""
            from dataclasses import dataclass
            from torch import nn

            @dataclass(frozen=True)
            class Parameters:
                inputs: int = 4
                classes: int = 3

            def build(parameters):
                return nn.Linear(parameters.inputs, parameters.classes)
            '''
        )
    )
    info = tmp_path / "their_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[unlearning.architectures]\n"
        "theirs = their_nets\nlenet5 = their_nets\nbroken = their_nets:build\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_adds_an_architecture():
    assert "theirs" in architectures.names()
    assert architectures.get("theirs").summary == "A linear model of their own."
    model = architectures.classifier("theirs", {"inputs": 6}, Transform())
    assert model(torch.rand(2, 6)).shape == (2, 3)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("recipe", ['{"speed": 1}', '{"nesterov": True}', "3"])
def test_recipe_of_an_architecture_that_is_none_is_refused(tmp_path, recipe):
    with (tmp_path / "their_nets.py").open("a") as file:
        file.write(f"\nRECIPE = {recipe}\n")
    with pytest.raises(BadDeclaration, match="its RECIPE is none"):
        architectures.get("theirs")


@pytest.mark.usefixtures("installed")
def test_an_installed_package_cannot_replace_ours_or_name_a_function():
    assert "LeNet-5" in architectures.get("lenet5").summary
    with pytest.raises(UnknownName, match="module"):
        architectures.get("broken")
