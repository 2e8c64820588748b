"""The device under test, and small trained tasks on it beside their copies on the processor."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace

import pytest
import torch

from tests.unlearning.methods import conftest as tasks
from tests.unlearning.methods.conftest import Task

#: ``cuda`` unless ``make gpu-check OPTIONS='--device cpu'`` says otherwise.
DEVICE = os.environ.get("UNLEARN_TEST_DEVICE", "cuda")

NETWORKS = {"mlp": tasks.mlp, "batch_norm": tasks.batch_norm, "own": tasks.own}


@dataclass(frozen=True)
class Copies:
    """One trained model with its task, on the processor and on the device."""

    processor: Task
    device: Task


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test; without one, the test is left out and says so."""
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device (UNLEARN_TEST_DEVICE=cpu tries the tests on the processor)")
    return torch.device(DEVICE)


@pytest.fixture(scope="session", params=sorted(NETWORKS))
def copies(request: pytest.FixtureRequest, device: torch.device) -> Copies:
    """A plain network, one with batch norm, a user's own; the weights of both copies are equal."""
    fresh = NETWORKS[request.param]
    here = tasks.trained(fresh, rows=300, epochs=4, rate=1e-2)
    there = replace(
        here,
        model=copy.deepcopy(here.model).to(device),
        untrained=copy.deepcopy(here.untrained).to(device),
        context=replace(here.context, fresh=lambda: fresh().to(device)),
    )
    return Copies(here, there)
