"""A network with tied weights, from the file that its owner writes to weights in use."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from sqlalchemy import select
from torch import nn

from models_store import open_store
from service.ledger.database.tables import Dataset
from service.messages import parts
from service.messages.describe import Request
from tests.stored import check_file, receive
from tests.workers.place import Place
from unlearning import architectures
from workers.compute import describe, workspace

MODULE = '''
"""Two layers that share one matrix."""
from dataclasses import dataclass
from torch import nn

@dataclass(frozen=True)
class Parameters:
    inputs: int = 64

class Tied(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.first = nn.Linear(inputs, inputs)
        self.second = nn.Linear(inputs, inputs)
        self.second.weight = self.first.weight
        self.out = nn.Linear(inputs, 10)

    def forward(self, x):
        return self.out(self.second(self.first(x.flatten(1)).relu()).relu())

def build(parameters):
    return Tied(parameters.inputs)
'''

MODEL = parts.Model(
    architecture=parts.Architecture(name="tied", parameters={}),
    input=parts.Input(name="image", options={}),
    transform={"scale": 1 / 16, "mean": [0.0], "std": [1.0]},
    recipe={},
)
TIES = [["first.weight", "second.weight"]]


@pytest.fixture(autouse=True)
def tied_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the network."""
    (tmp_path / "tied_network.py").write_text(MODULE)
    info = tmp_path / "tied-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tied\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unlearning.architectures]\ntied = tied_network\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_worker_tells_which_names_are_one_tensor(town: Place) -> None:
    with town.runtime.session() as session:
        array = session.scalars(select(Dataset.array_key)).one()
    place = workspace.Workspace(device="cpu", threads=1)
    request = Request(
        data=parts.View(
            store=town.runtime.store.ticket(array), arrays=[array], excluded=[], trained_on=None
        ),
        model=MODEL,
        classes=10,
        features=[],
    )
    described = describe.run(request, place, lambda seen: None)
    assert described.tied == TIES
    assert {"first.weight", "second.weight"} <= described.parameters.keys()


def test_a_file_of_save_model_loads_with_its_ties(tmp_path: Path) -> None:
    place = workspace.Workspace(device="cpu", threads=1)
    trained = place.fresh(MODEL, generator=torch.Generator().manual_seed(3))
    file = tmp_path / "tied.safetensors"
    safetensors.torch.save_model(trained.network, str(file))
    spec = architectures.parameter_spec("tied", {})
    with safetensors.safe_open(file, "pt") as opened:
        assert len(list(opened.keys())) == len(spec) - 1
    check_file(file, spec, 1 << 20, tied=TIES)
    saved = receive(tmp_path, file.read_bytes(), {"origin": "imported"})
    loaded = place.load(open_store(tmp_path), MODEL, saved.digest)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert isinstance(loaded.network.first, nn.Linear)
    assert loaded.network.first.weight is loaded.network.second.weight
