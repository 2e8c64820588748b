"""Trainings of the service follow the model's recipe: they equal trainings written out here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sqlalchemy import select
from torch import Tensor

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Artifact, Dataset
from service.ledger.reports import disclosure
from service.ledger.training import runs
from tests.stored import load
from tests.workers import place
from tests.workers.place import Place
from unlearning import trainers
from unlearning.core import objective, training
from workers.compute import data
from workers.compute.process import ComputeProcess
from workers.compute.workspace import Workspace
from workers.jobs import plans

#: On the digits, of which each writer's rows stay together: classes are of different sizes.
RECIPE = {
    "optimiser": "sgd",
    "learning_rate": 0.05,
    "nesterov": True,
    "weight_decay": 1e-3,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "epochs": 4,
    "keep": "last",
    "accumulate": 2,
    "batch_size": 32,
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "flip": True,
    "crop_padding": 1,
    "alpha": 0.0,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, compute: ComputeProcess) -> Path:
    """The state directory of a service whose model has that recipe, with its first training.

    Each test works on a copy of it (``town``).
    """
    network = {**place.SMALL, "architecture": "lenet5", "parameters": {"width": 2}}
    home = tmp_path_factory.mktemp("recipes")
    place.found(home, compute, network={**network, "recipe": RECIPE}).close()
    return home


def by_hand(
    town: Place, *, seed: int, without: Sequence[int] = (), anew: bool = False
) -> dict[str, Tensor]:
    """Return the weights of a training on the training rows but those ``without``.

    ``anew``: it draws from the beginning of the seed's numbers, as initial weights did.
    """
    workspace = Workspace(device="cpu", threads=1)
    with town.runtime.session() as session:
        model = plans.model(town.model())
        dataset = session.get_one(Dataset, town.model().dataset_id)
        view = plans.view(session, town.runtime.store, dataset, rows=dataset.rows or 0, excluded=[])
    _, rows = workspace.open(view)
    generator = torch.Generator().manual_seed(seed)
    network = workspace.fresh(model, generator=generator)
    train = rows.retain(without)
    if anew:
        generator.manual_seed(seed)
    recipe = trainers.recipe(model.recipe)
    training.fit(network, train, rows.split(data.VALIDATION), recipe=recipe, generator=generator)
    objective.recalibrate_batch_norm(network, train)
    return network.network.state_dict()


def weights(town: Place, digest: str) -> dict[str, Tensor]:
    named = load(town.settings.store, digest)
    return {name: torch.from_numpy(array) for name, array in named.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_first_training_follows_the_recipe_and_shows_its_curve(town: Place) -> None:
    first = town.versions()[0]
    assert same(weights(town, first.digest), by_hand(town, seed=1))
    with town.runtime.session() as session:
        [run] = runs.page(session, town.model(), before=None, limit=1)
    epochs, withheld = disclosure.curve(run.curve, run.set_changes)
    assert withheld is None
    assert [one["epoch"] for one in epochs] == [1, 2, 3, 4]
    rates = [one["learning_rate"] for one in epochs]
    assert rates[0] == 0.05
    assert rates[1] > rates[2] > rates[3] > 0
    assert epochs[-1]["training_loss"] < epochs[0]["training_loss"]
    assert run.progress == {"fraction": 1.0, "epoch": 4, "epochs": 4}


def test_step_after_it_uses_what_the_training_minimised(town: Place) -> None:
    row = town.training_rows()[0]
    request = town.ask(row)
    town.work()
    assert town.request(request).status == RequestStatus.COMPLETED
    assert town.live().method == "iau"
    with town.runtime.session() as session:
        cache = session.scalars(select(Artifact).filter_by(kind="caches")).one()
    named = load(town.settings.store, cache.digest, kind="caches")
    assert float(named["loss.label_smoothing"]) == 0.1
    assert named["loss.class_weights"].shape == (10,)


def test_retrain_is_the_same_training_on_fewer_rows(town: Place) -> None:
    town.change_policy(method="retrain", fallbacks=[])
    gone = town.training_rows()[:2]
    for row in gone:
        town.ask(row)
    town.work()
    live = town.live()
    assert (live.method, live.notes["epochs"], live.notes["best_epoch"]) == ("retrain", 4, 3)
    expected = by_hand(town, seed=live.seed, without=gone, anew=True)
    assert same(weights(town, live.digest), expected)
