"""Rows of several tensors read as those of one."""

from __future__ import annotations

import pytest
import torch

from unlearning.core.examples import Examples, concatenate
from unlearning.core.joined import Joined

PARTS = [
    torch.arange(6.0).view(3, 2),
    torch.arange(6.0, 8.0).view(1, 2),
    torch.arange(8.0, 14.0).view(3, 2),
]
WHOLE = torch.cat(PARTS)


def test_rows_are_those_of_the_concatenated_parts() -> None:
    joined = Joined(PARTS)
    generator = torch.Generator().manual_seed(0)
    for where in (
        torch.randperm(7, generator=generator),
        torch.tensor([6, 0, 3, 3]),
        torch.tensor([]).long(),
    ):
        assert torch.equal(joined[where], WHOLE[where])
    for piece in (slice(None), slice(2, 5), slice(1, None, 3)):
        assert torch.equal(joined[piece], WHOLE[piece])
    assert (len(joined), joined.shape, joined.ndim, joined.dtype) == (
        7,
        WHOLE.shape,
        2,
        WHOLE.dtype,
    )


def test_row_that_does_not_exist_is_refused() -> None:
    with pytest.raises(IndexError):
        Joined(PARTS)[torch.tensor([7])]


def test_parts_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes or dtypes"):
        Joined([PARTS[0], torch.zeros(2, 3)])


def test_examples_read_joined_rows_as_those_of_one_tensor() -> None:
    y = torch.arange(7)
    joined, whole = (
        Examples(Joined(PARTS), y, torch.tensor([5, 1, 3])),
        Examples(WHOLE, y, torch.tensor([5, 1, 3])),
    )
    for one, other in zip(joined.batches(2), whole.batches(2), strict=True):
        assert all(map(torch.equal, one, other))
    other = Examples(torch.zeros(1, 2), torch.zeros(1).long())
    assert torch.equal(concatenate(joined, other).x[:], concatenate(whole, other).x[:])
