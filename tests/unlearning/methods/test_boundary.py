import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from unlearning import architectures
from unlearning.architectures import Transform
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from unlearning.methods import Context, boundary_expanding, boundary_shrink


def _nearest_by_hand(model, x, y, *, step, radius, iterations):
    """The neighbour label of one row, step by step."""
    moved = x.clone().float()
    for _ in range(iterations):
        moved.requires_grad_(True)
        gradient = torch.autograd.grad(functional.cross_entropy(model(moved[None]), y[None]), moved)
        moved = (moved + step * gradient[0].sign()).detach()
        moved = torch.maximum(torch.minimum(moved, x + radius), x - radius)
    ranked = model(moved[None])[0].argsort(descending=True)
    return int(ranked[0]) if ranked[0] != y else int(ranked[1])


@pytest.mark.parametrize("search", ["fgsm", "pgd"])
def test_neighbour_labels_are_those_of_an_explicit_loop(digits_mlp, search):
    forget, _ = digits_mlp.of_class()
    forget = forget.subset(torch.arange(40))
    options = boundary_shrink.Options(search=search, epsilon=0.3, pgd_step=0.1, batch_size=16)
    # Digits are stored as 0..16 and the model scales by 1/16.
    radius = 16 * 0.3
    how = {"step": radius, "iterations": 1} if search == "fgsm" else {"step": 1.6, "iterations": 5}
    expected = [
        _nearest_by_hand(digits_mlp.model, forget.x[row], forget.y[row], radius=radius, **how)
        for row in forget.rows
    ]
    labels = boundary_shrink.neighbour_labels(
        digits_mlp.model, forget, classes=torch.arange(10), options=options
    )
    assert labels.tolist() == expected
    assert (labels != forget.labels).all()
    assert len(set(expected)) > 1


def test_pgd_stays_within_epsilon_where_its_steps_would_lead_beyond():
    options = boundary_shrink.Options(search="pgd", epsilon=0.1, pgd_step=0.08, pgd_iterations=5)
    # A linear model: every step goes the same way, so the ball ends at ε.
    model = nn.Linear(4, 2)
    x = torch.rand(6, 4)
    moved = boundary_shrink._across(model, x, torch.zeros(6, dtype=torch.int64), options, unit=1.0)
    assert torch.allclose((moved - x).abs(), torch.full_like(x, 0.1), atol=1e-6)


def test_epsilon_means_the_same_on_bytes_and_on_fractions():
    network = nn.Linear(9, 4)
    bytes_ = torch.randint(256, (30, 9), dtype=torch.uint8)
    y = torch.randint(4, (30,))
    options = boundary_shrink.Options(epsilon=0.2)
    scaled = architectures.Classifier(network, Transform(scale=1 / 255))
    fractions = Examples(bytes_.float() / 255, y)
    on_bytes, on_fractions = (
        boundary_shrink.neighbour_labels(model, examples, classes=torch.arange(4), options=options)
        for model, examples in ((scaled, Examples(bytes_, y)), (network, fractions))
    )
    assert torch.equal(on_fractions, on_bytes)


def test_a_table_of_small_whole_numbers_is_moved_by_epsilon_itself():
    network = nn.Linear(9, 4)
    flags = torch.randint(2, (30, 9), dtype=torch.uint8)
    y = torch.randint(4, (30,))
    options = boundary_shrink.Options(epsilon=0.2)
    unscaled = architectures.Classifier(network, Transform())
    on_bytes, on_floats = (
        boundary_shrink.neighbour_labels(model, examples, classes=torch.arange(4), options=options)
        for model, examples in (
            (unscaled, Examples(flags, y)),
            (network, Examples(flags.float(), y)),
        )
    )
    assert torch.equal(on_floats, on_bytes)


def test_classes_that_no_retained_row_has_are_no_neighbours(digits_mlp):
    forget, _ = digits_mlp.of_class()
    options = boundary_shrink.Options()
    every, some = (
        boundary_shrink.neighbour_labels(digits_mlp.model, forget, classes=classes, options=options)
        for classes in (torch.arange(10), torch.tensor([0, 3, 6]))
    )
    assert not torch.isin(every, torch.tensor([0, 6])).all()
    assert set(some.tolist()) <= {0, 6}


def test_head_is_found_by_its_output_not_by_its_place(digits_mlp):
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 10)
            self.body = nn.Linear(64, 5)
            self.aside = nn.Linear(5, 10)

        def forward(self, x):
            h = self.body(x.flatten(1)).relu()
            self.aside(h)
            return self.head(h)

    assert boundary_expanding.head(Backwards(), digits_mlp.train) == "head"
    assert boundary_expanding.head(digits_mlp.model, digits_mlp.train) == "network.3"


def test_network_without_a_linear_head_is_told_what_is_missing(digits_mlp):
    convolutional = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    forget, retain = digits_mlp.records(5)
    with pytest.raises(WrongOptions, match=r"end the network in an nn\.Linear"):
        boundary_expanding.unlearn(
            convolutional,
            forget,
            retain,
            options=boundary_expanding.Options(),
            context=Context(),
            generator=torch.Generator(),
        )


def test_expanded_head_is_dropped_and_its_layer_keeps_its_shape(digits_mlp):
    forget, retain, context = digits_mlp.given("class")
    update = boundary_expanding.unlearn(
        digits_mlp.model,
        forget,
        retain,
        options=boundary_expanding.Options(learning_rate=0.01),
        context=context,
        generator=torch.Generator().manual_seed(0),
    )
    assert update.model.get_submodule("network.3").out_features == 10
    shapes = {name: t.shape for name, t in digits_mlp.model.state_dict().items()}
    assert {name: t.shape for name, t in update.model.state_dict().items()} == shapes


def test_rows_to_forget_end_on_their_neighbours_labels(digits_mlp):
    forget, retain, context = digits_mlp.given("class")
    options = boundary_shrink.Options(learning_rate=0.01, epochs=10)
    labels = boundary_shrink.neighbour_labels(
        digits_mlp.model, forget, classes=torch.arange(10), options=options
    )
    update = boundary_shrink.unlearn(
        digits_mlp.model,
        forget,
        retain,
        options=options,
        context=context,
        generator=torch.Generator().manual_seed(0),
    )
    given = objective.logits(update.model, forget).argmax(1)
    assert (given == labels).double().mean() > 0.9
    assert (objective.logits(digits_mlp.model, forget).argmax(1) == labels).double().mean() < 0.1


def test_rows_to_forget_do_not_move_the_batch_norm_statistics(task):
    forget, retain, context = task.given("records")
    for method in (boundary_shrink, boundary_expanding):
        update = method.unlearn(
            task.model,
            forget,
            retain,
            options=dataclasses.replace(method.Options(), learning_rate=1e-3),
            context=context,
            generator=torch.Generator().manual_seed(0),
        )
        before = dict(task.model.named_buffers())
        assert all(torch.equal(before[n], b) for n, b in update.model.named_buffers())
