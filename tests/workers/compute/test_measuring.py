"""What a compute process remembers of a model's scores must be what scoring it again would give."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from service.ledger.reports.disclosure import LEAST_ROWS
from unlearning import verification
from unlearning.architectures import Transform, classifier
from unlearning.core.examples import Examples
from unlearning.verification import looks
from workers.compute import measuring
from workers.compute.data import Data, Layout
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


@pytest.mark.parametrize("count", [7, 403, 1000, 1009, 1010, 2004, 2504, 5001, 5600])
def test_samples_of_one_set_differ_by_no_rows_or_by_enough(count: int) -> None:
    """A table of one, less that of the other, would be the figures of the rows between them."""
    splits = np.repeat(np.arange(3, dtype=np.uint8), count)
    examples = torch.zeros(len(splits), 1)
    rows = Data(
        x=examples,
        y=torch.zeros(len(splits), dtype=torch.int64),
        layout=Layout.of([SimpleNamespace(splits=splits)], None),
        excluded=torch.zeros(len(splits), dtype=torch.bool),
        classes=1,
    )
    read = [measuring.sets(rows, [], portion=portion) for portion in looks.PORTIONS]
    for name, imported in measuring.sets_of_import(rows).items():
        sizes = sorted({len(imported), *(len(one[name]) for one in read)})
        assert all(b - a >= LEAST_ROWS for a, b in itertools.pairwise(sizes))
