"""The values of a dataset are tried on a network, wherever its rows lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unlearning.core.joined import Joined
from unlearning.errors import WrongOptions
from workers.compute import fitting


class Sites(nn.Module):
    """Looks the first column up in a table of five."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(x[:, 0].long())
        return found


def test_value_beyond_a_table_is_named_by_its_row_in_all_arrays() -> None:
    rows = Joined([torch.tensor([[1.0, 0.5], [4.0, 9.0]]), torch.tensor([[2.0, 9.5], [5.0, 0.0]])])
    fitting.check(Sites().eval(), rows, torch.tensor([0, 1, 2]), ["site", "value"])
    with pytest.raises(WrongOptions, match=r"row 3, column 'site'"):
        fitting.check(Sites().eval(), rows, torch.arange(4), ["site", "value"])
