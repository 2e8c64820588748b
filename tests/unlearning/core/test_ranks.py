"""What several ranks compute together, against one process on all rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.unlearning import together
from tests.unlearning.together import Named
from unlearning import architectures, verification
from unlearning.anchored import margins
from unlearning.architectures import Transform, _heads
from unlearning.core import objective, ranks, task, training, training_state
from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe
from unlearning.curvature import estimation, signals
from unlearning.methods import _squared_gradients, influence

#: A batch of 31 is divided unevenly; the last one of 8 has 3 rows, which one rank takes alone.
ROWS, HELD_OUT = 99, 50
RECIPE = Recipe(epochs=2, batch_size=31, optimiser="sgd", learning_rate=0.05, keep="last")
RECIPES = {
    "restricted": RECIPE,
    "joint": replace(RECIPE, alpha=0.05, norm="joint", restriction="double_backward"),
    "per tensor": replace(RECIPE, alpha=0.05, restriction="double_backward"),
    "unrestricted": replace(RECIPE, alpha=0.0, clip_norm=1.0, class_weights="balanced"),
    "accumulated": replace(RECIPE, batch_size=8, accumulate=5, alpha=0.0, flip=True),
}
SMALL = {"channels": 1, "image_height": 8, "image_width": 8, "width": 3}


def _digits() -> tuple[Examples, Examples]:
    digits = load_digits()
    x = torch.tensor(digits.images[: ROWS + HELD_OUT], dtype=torch.float32)[:, None]
    both = Examples(x, torch.tensor(digits.target[: ROWS + HELD_OUT]))
    return both.subset(torch.arange(ROWS)), both.subset(torch.arange(ROWS, ROWS + HELD_OUT))


def _lenet() -> nn.Module:
    return architectures.classifier(
        "lenet5",
        SMALL,
        Transform(scale=1 / 16, mean=(0.3,), std=(0.4,)),
        generator=torch.Generator().manual_seed(0),
    )


def _normalised() -> nn.Module:
    """A network with batch normalisation, and dropout after it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(16, 10),
        )


def _trained(model: nn.Module, recipe: Recipe, **more: training_state.TrainingState) -> Named:
    train, validation = _digits()
    kept: list[Named] = []
    fitted = training.fit(
        model,
        train,
        validation,
        recipe=recipe,
        generator=torch.Generator().manual_seed(5),
        kept=lambda state: kept.append({name: t.clone() for name, t in state.to_tensors().items()}),
        **more,
    )
    curve = [(one.training_loss, one.validation_loss) for one in fitted.history]
    found = {
        "weights": objective.flatten(model),
        "state": torch.cat([t.double().reshape(-1) for t in model.state_dict().values()]),
        "curve": torch.tensor(curve, dtype=torch.float64),
    }
    return found | ({f"kept {name}": t for name, t in kept[0].items()} if kept else {})


def _trainings() -> Named:
    found: Named = {}
    for name, recipe in RECIPES.items():
        found |= _labelled(name, _trained(_lenet(), recipe))
    found |= _labelled("again", _trained(_lenet(), RECIPE))
    normalised = _trained(_normalised(), RECIPE)
    found |= _labelled("normalised", normalised)
    found |= _labelled("normalised again", _trained(_normalised(), RECIPE))
    kept = {
        name.removeprefix("kept "): t for name, t in normalised.items() if name.startswith("kept ")
    }
    state = training_state.from_tensors(kept)
    return found | _labelled("resumed", _trained(_normalised(), RECIPE, resume=state))


def _sums() -> Named:
    train, validation = _digits()
    model = _lenet()
    loss = task.TrainingLoss(0.1, None)
    gradient, losses = objective.summed_gradient_and_losses(model, train, loss=loss, batch_size=20)
    plain, weighted, _ = objective.weighted_gradient(
        model, train, lambda one: one.square(), batch_size=20
    )
    found = {
        "gradient": gradient,
        "losses": losses,
        "plain": plain,
        "weighted": weighted,
        "logits": objective.logits(model, train, batch_size=20),
        "correct": objective.correct(model, train, batch_size=20),
        "few": objective.losses(model, train.subset(torch.arange(7))),
        "margins": margins.of_examples(model, train, batch_size=20),
        "squares": _flat(_squared_gradients.empirical(model, train)),
        "product": influence.gauss_newton_product(
            model, train, objective.flatten(model), loss=task.PLAIN, batch_size=20
        ),
    }
    scored = verification.score(model, train, batch_size=20, keep_probabilities=True)
    found |= _labelled("scores", {k: torch.from_numpy(a) for k, a in scored.to_arrays().items()})
    found |= _labelled("head", _head(train, validation))
    network = _normalised()
    objective.recalibrate_batch_norm(network, train, batch_size=20)
    found["statistics"] = _flat(dict(network.named_buffers()))
    for fisher in ("type2", "empirical"):
        found |= _curvature(fisher, _lenet(), train)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 70), nn.LayerNorm(70))
    with torch.no_grad():
        for p in wide.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape).sin())
    return found | _curvature("type2", wide, validation, label="many classes")


def _head(train: Examples, validation: Examples) -> Named:
    shape = {"inputs": 64, "classes": 10}
    model = architectures.classifier("ridge", shape, Transform(scale=1 / 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_heads, "_BATCH", 20)
        fitted = training.fit(
            model, train, validation, recipe=RECIPE, generator=torch.Generator().manual_seed(0)
        )
    assert fitted.statistics is not None
    return fitted.statistics.to_tensors() | {"weights": objective.flatten(model)}


def _curvature(
    fisher: signals.Fisher, model: nn.Module, examples: Examples, *, label: str = ""
) -> Named:
    generator = torch.Generator().manual_seed(3)
    found = estimation.estimate(model, examples, fisher=fisher, batch_size=16, generator=generator)
    vector = torch.linspace(-1, 1, objective.flatten(model).numel(), dtype=torch.float64)
    named = {
        "damping": torch.tensor([found.damping]),
        "diagonal": found.diagonal,
        "solved": found.solve(vector),
        "generator": generator.get_state(),
    }
    return _labelled(f"curvature {label or fisher}", named)


def _everything() -> Named:
    return _trainings() | _sums()


def _few() -> Named:
    train, _ = _digits()
    trained = _trained(_lenet(), RECIPES["unrestricted"])
    scored = {"logits": objective.logits(_lenet(), train, batch_size=20)}
    return scored | {name: trained[name] for name in ("weights", "curve")}


def _labelled(label: str, named: Named) -> Named:
    return {f"{label}: {name}": t for name, t in named.items()}


def _off(found: Tensor, expected: Tensor) -> float:
    """Return the distance relative to the expected values; 0 if these are the same."""
    assert found.shape == expected.shape
    distance = float((found.double() - expected.double()).norm())
    return distance / float(expected.double().norm()) if distance else 0.0


def _flat(named: Named) -> Tensor:
    return torch.cat([t.double().reshape(-1) for t in named.values()])


@pytest.fixture(scope="module")
def single() -> Named:
    return _everything()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[Named]:
    return together.run(_everything, tmp_path_factory.mktemp("ranks"), ranks=2)


@pytest.mark.slow
def test_every_rank_has_the_same_result_bit_for_bit(several: list[Named]) -> None:
    first, second = several
    different = [name for name, t in first.items() if not torch.equal(t, second[name])]
    # The states of the global generators, from which each rank draws for its own rows.
    assert all(name.endswith(": kept random") for name in different)
    assert "normalised: state" in first


@pytest.mark.slow
def test_sums_and_scores_are_those_of_one_process(single: Named, several: list[Named]) -> None:
    for name in _sums():
        expected, found = single[name], several[0][name]
        assert found.dtype == expected.dtype
        assert _off(found, expected) <= (0 if name.startswith("head: ") else 1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_training_follows_that_of_one_process(
    single: Named, several: list[Named], name: str
) -> None:
    curve = f"{name}: curve"
    torch.testing.assert_close(several[0][curve], single[curve], rtol=1e-5, atol=0)
    start = objective.flatten(_lenet())
    moved, expected = (found[f"{name}: weights"] - start for found in (several[0], single))
    assert _off(moved, expected) <= 1e-4


@pytest.mark.slow
def test_three_ranks_compute_what_one_does(single: Named, tmp_path: Path) -> None:
    found = together.run(_few, tmp_path, ranks=3)
    for name, expected in _few().items():
        assert _off(found[0][name], expected) <= 1e-5, name
        assert all(torch.equal(other[name], found[0][name]) for other in found[1:]), name


@pytest.mark.slow
def test_training_is_repeated_bit_for_bit(several: list[Named]) -> None:
    found = several[0]
    assert torch.equal(found["restricted: state"], found["again: state"])
    assert torch.equal(found["normalised: state"], found["normalised again: state"])


@pytest.mark.slow
def test_training_that_is_resumed_ends_as_without_interruption(several: list[Named]) -> None:
    found = several[0]
    for name in ("state", "curve"):
        assert torch.equal(found[f"resumed: {name}"], found[f"normalised: {name}"])


@pytest.mark.slow
def test_ranks_of_a_network_with_batch_normalisation_learn_alike(
    single: Named, several: list[Named]
) -> None:
    """Each normalises its own part of a batch, so the weights are others than those of one."""
    curve = several[0]["normalised: curve"]
    assert curve[-1, 0] < curve[0, 0]
    torch.testing.assert_close(curve, single["normalised: curve"], rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("rows", "parts"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (9, 3)]
)
def test_no_part_of_a_batch_has_a_single_row(
    monkeypatch: pytest.MonkeyPatch, rows: int, parts: int
) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 3)
    bounds = ranks.of_batch(rows).bounds
    sizes = [end - begin for begin, end in bounds]
    assert sum(sizes) == rows
    assert [size for size in sizes if size] == sizes[:parts]
    assert rows == 1 or min(sizes[:parts]) > 1
