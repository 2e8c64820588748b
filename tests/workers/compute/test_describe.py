"""A model is tried on the values of its dataset before anything trains on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from service.ledger.database import db, schema
from service.ledger.database.tables import Model
from service.ledger.registry import datasets, models
from service.ledger.registry.policy import Policy
from service.messages.failures import Failure, FailureKind
from service.settings import Settings
from tests.workers import place
from workers.compute.process import ComputeFailed, ComputeProcess
from workers.jobs import ingest, prepare
from workers.runtime import Runtime
from workers.schedule import catalogue

NETWORK = '''
"""Looks the first column up in a table, and the second one too if it is asked to."""
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Parameters:
    inputs: int = 3
    sites: int = 10
    kinds: int = 0
    width: int = 5
    classes: int = 2


class Network(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.kinds = p.kinds
        self.sites = nn.Embedding(p.sites, 4)
        self.head = nn.Linear(p.width + p.kinds, p.classes)

    def forward(self, x):
        parts = [self.sites(x[:, 0].long()), x[:, 2:]]
        if self.kinds:
            parts.append(functional.one_hot(x[:, 1].long(), self.kinds).float())
        return self.head(torch.cat(parts, 1))


def build(parameters):
    return Network(parameters)
'''


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComputeProcess]:
    """A compute process with the network above installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "lookup-1.0.dist-info"
    info.mkdir()
    (site / "lookup_network.py").write_text(NETWORK)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lookup\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unlearning.architectures]\nlookup = lookup_network\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        made = ComputeProcess(device="cpu", threads=1)
        yield made
        made.kill()


@pytest.fixture
def worker(process: ComputeProcess, tmp_path: Path) -> Iterator[Runtime]:
    """A worker with that process, and 6,000 rows: row 5,000 has the site 57."""
    settings = Settings(_env_file=None, state_dir=tmp_path / "state", **place.SETTINGS)
    settings.sources.mkdir(parents=True)
    lines = ["record_id,site,kind,weight,label"]
    for i in range(6000):
        where = 57 if i == 5000 else i % 10
        lines.append(f"r{i:05d},{where},{i % 4},{i * 0.25 + 0.5},{i % 2}")
    (settings.sources / "visits.csv").write_text("\n".join(lines) + "\n")
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    runtime = Runtime(settings, engine, process, owner="w1")
    catalogue.announce(runtime)
    with runtime.session() as session:
        datasets.create(
            session,
            "visits",
            source={"path": "visits.csv"},
            actor="key:test",
            now=runtime.now(),
        )
    ingest.run_due(runtime)
    yield runtime
    engine.dispose()


def described(
    runtime: Runtime, recipe: Mapping[str, Any] | None = None, /, **parameters: int
) -> Model:
    with runtime.session() as session:
        made = models.create(
            session,
            "-".join(["m", *map(str, parameters.values()), *(recipe or {})]).replace("_", "-"),
            dataset="visits",
            architecture="lookup",
            parameters=parameters,
            transform={},
            recipe=recipe or {},
            policy=Policy(),
            actor="key:test",
            now=runtime.now(),
        )
        name = made.name
    prepare.describe_due(runtime)
    with runtime.session() as session:
        return session.scalars(select(Model).filter_by(name=name)).one()


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"sites": 10}, "row 5000, column 'site'"),
        ({"sites": 58, "kinds": 3}, "row 3, column 'kind'"),
    ],
)
def test_value_that_the_network_has_no_place_for_is_named_by_row_and_column(
    worker: Runtime, parameters: dict[str, int], where: str
) -> None:
    model = described(worker, **parameters)
    assert model.error is not None
    assert model.error.startswith(where)
    assert "make the architecture's table for it larger" in model.error
    assert "57" not in model.error  # the value is a person's


def test_network_with_a_place_for_every_value_is_ready(worker: Runtime) -> None:
    model = described(worker, sites=58, kinds=4)
    assert model.error is None
    assert model.parameters is not None


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"flip": True}, "recipe.crop_padding are for images"),
        ({"class_weights": [1.0, 1.0, 5.0]}, "gives 3 weights and the network has 2 classes"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs must be below the 3 epochs"),
    ],
)
def test_recipe_that_cannot_train_on_such_rows_makes_the_model_invalid(
    worker: Runtime, recipe: dict[str, Any], why: str
) -> None:
    model = described(worker, recipe, sites=58, kinds=4)
    assert model.error is not None
    assert why in model.error


def test_error_that_no_value_causes_is_told_as_it_is(worker: Runtime) -> None:
    model = described(worker, sites=58, kinds=4, width=9)
    assert model.error is not None
    assert "mat1 and mat2 shapes cannot be multiplied" in model.error
    assert "row" not in model.error


def test_machine_that_fails_makes_no_model_invalid(
    worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise ComputeFailed(
            Failure(kind=FailureKind.OUT_OF_MEMORY, name="OutOfMemory", message="out of memory")
        )

    with monkeypatch.context() as patch:
        patch.setattr(worker.compute, "call", out_of_memory)
        model = described(worker, sites=58, kinds=4)
    assert (model.error, model.parameters) == (None, None)
    again = Runtime(worker.settings, worker.engine, worker.compute, owner="w2")
    prepare.describe_due(again)
    with worker.session() as session:
        assert session.get_one(Model, model.id).parameters is not None
