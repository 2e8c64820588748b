"""What a trainer is given: an untrained network, and rows that it may read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core.examples import Examples


class Rows:
    """Labelled rows, and no others of their dataset; a map-style data set of torch.

    ``rows[i]`` is one row (x (*shape), y ()), ``rows[positions]`` with an int64 tensor (m,) several
    (x (m, *shape), y (m,)): copies on the CPU, as they are stored.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, where: int | Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(where, int):
            if not -len(self) <= where < len(self):
                raise IndexError(f"there are {len(self)} rows")
            x, y = self[torch.tensor([where % len(self)])]
            return x[0], y[0]
        chosen = self._examples.subset(where)
        return chosen.x[chosen.positions], chosen.labels

    @property
    def labels(self) -> Tensor:
        """Return a copy of all labels, (n,) int64."""
        return self._examples.labels.clone()

    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield mini-batches (x, y) on ``device``; shuffled with ``generator`` if it is given.

        No batch has a single row, unless ``size`` is 1 or there is one row.
        """
        order = torch.arange(len(self))
        if generator is not None:
            order = torch.randperm(len(self), generator=generator)
        yield from self._examples.subset(order).batches(size, device=device)


@dataclass(frozen=True)
class Task:
    """What is to be trained.

    ``model`` is untrained, on ``device`` and the trainer's own to change: it takes rows as they are
    stored and returns logits (n, classes). ``validation`` are rows to choose an epoch by; they must
    not be trained on.
    """

    model: nn.Module
    validation: Rows
    device: torch.device
