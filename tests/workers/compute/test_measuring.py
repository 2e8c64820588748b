"""What a compute process remembers of a model's scores must be what scoring it again would give."""

from __future__ import annotations

import numpy as np
import torch

from unlearning import verification
from unlearning.architectures import Transform, classifier
from unlearning.core.examples import Examples
from workers.compute import measuring
from workers.compute.workspace import Workspace
from workers.demo import digits


def test_remembered_scores_are_completed_row_by_row() -> None:
    data = digits.load()
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    parameters = {"channels": 1, "image_height": 8, "image_width": 8, "classes": 10}
    model = classifier("lenet5", parameters, Transform(1 / 16)).eval()
    place = Workspace(device="cpu", threads=1)

    def score(rows: range) -> verification.Scores:
        examples = Examples(x, y, torch.tensor(list(rows)))
        forget = examples.subset(torch.arange(3))
        found = measuring.scores(
            place, ("array", "digest"), model, {"audit": examples}, forget, list(rows)[:3]
        )
        return found.audit

    score(range(0, 200))
    completed = score(range(50, 260, 2))
    afresh = verification.score(model, Examples(x, y, torch.arange(50, 260, 2)))
    assert np.array_equal(completed.rows, afresh.rows)
    assert np.array_equal(completed.correct, afresh.correct)
    # The mini-batches differ, and with them the last bits of a float32 forward pass.
    np.testing.assert_allclose(completed.loss, afresh.loss, rtol=1e-5)
