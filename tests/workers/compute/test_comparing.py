"""The comparison of the live version with the exact one that a training run made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from service.messages.train import Approximate
from unlearning.architectures import Transform, classifier
from workers.compute import train
from workers.compute.data import Data, Layout
from workers.demo import digits


def test_rows_of_the_live_version_that_the_run_does_not_know_are_no_matter() -> None:
    """They were appended and imported with while the run was interrupted."""
    source = digits.load()
    x, y = (torch.from_numpy(part[:60]) for part in (source.x, source.y))
    array: Any = SimpleNamespace(splits=(torch.arange(60) % 3).to(torch.uint8).numpy())
    rows = Data(
        x=x,
        y=y,
        layout=Layout.of([array], None),
        excluded=torch.zeros(60, dtype=torch.bool),
        classes=10,
    )
    parameters = {"channels": 1, "image_height": 8, "image_width": 8, "classes": 10}
    model = classifier("lenet5", parameters, Transform(1 / 16)).eval()
    live = Approximate(digest="0" * 64, number=2, trained_on=[0, 2, 60, 75])
    found = train._compare(live, rows, model, model)
    assert found["sets"]["audit"]["rows"] == 19
