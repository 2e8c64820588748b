"""A classifier whose network is a head: fitted in closed form, and without rows again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from unlearning.architectures._classifier import Classifier
from unlearning.core import ranks
from unlearning.core.examples import Examples
from unlearning.heads import ridge, statistics
from unlearning.heads.ridge import RidgeHead
from unlearning.heads.statistics import Statistics

#: Rows whose features are in memory at once.
_BATCH = 4096

Move = Callable[[Statistics, Tensor, Tensor, Tensor], Statistics]


class HeadClassifier(Classifier):
    """A ridge head with the transform of its input.

    Features are always computed on the CPU, whose sums and cosines do not depend on the device on
    which the model runs.
    """

    network: RidgeHead

    def fit_in_closed_form(
        self,
        train: Examples,
        validation: Examples,
        progress: Callable[[float], None] = lambda _fraction: None,
    ) -> Statistics:
        """Fit in place; choose λ (unless it is given) and the temperature on ``validation``.

        Return the statistics of ``train``: they contain its rows and are never served.
        """
        head = self.network
        found = self.sums(train, progress)
        q, y = self._features(validation)
        penalty = head.given_penalty or ridge.chosen_penalty(found, q, y)
        weights = ridge.solve(found, penalty)
        head.set(weights, found.class_counts, penalty=penalty)
        head.temperature.fill_(ridge.chosen_temperature(q @ weights, y))
        return found

    def sums(
        self, train: Examples, progress: Callable[[float], None] = lambda _fraction: None
    ) -> Statistics:
        """Return the statistics of these rows; errors as in ``statistics.added``."""
        head = self.network
        start = statistics.empty(
            features=head.width,
            classes=head.classes,
            storage_rows=len(train.y),
            bits=head.bits,
        )
        division = ranks.by_batches(len(train), _BATCH)
        part = self._moved(start, division.part(train), statistics.added, progress)
        return statistics.united(part, division.summed) if division.bounds else part

    def refitted(self, found: Statistics) -> HeadClassifier:
        """Return a copy with the weights of these statistics, and λ and temperature as they are."""
        made = copy.deepcopy(self)
        penalty = float(self.network.penalty)
        weights = ridge.solve(found, penalty)
        made.network.set(weights, found.class_counts, penalty=penalty)
        return made

    def with_rows(self, found: Statistics, examples: Examples) -> Statistics:
        """Return the statistics with these rows as well; errors as in ``statistics.added``."""
        return self._moved(found, examples, statistics.added)

    def without_rows(self, found: Statistics, examples: Examples) -> Statistics:
        """Return the statistics without these rows; errors as in ``statistics.deleted``."""
        return self._moved(found, examples, statistics.deleted)

    @torch.no_grad()
    def _moved(
        self,
        found: Statistics,
        examples: Examples,
        move: Move,
        progress: Callable[[float], None] = lambda _fraction: None,
    ) -> Statistics:
        done = 0
        for q, y, positions in self._batches(examples):
            found = move(found, q, y, positions)
            done += len(y)
            progress(done / len(examples))
        return found

    def _features(self, examples: Examples) -> tuple[Tensor, Tensor]:
        parts = list(self._batches(examples))
        return torch.cat([q for q, _, _ in parts]), torch.cat([y for _, y, _ in parts])

    @torch.no_grad()
    def _batches(self, examples: Examples) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield features (m, d), labels (m,) and positions (m,) of batches of rows, on the CPU."""
        if not len(examples):
            return
        onsite = copy.deepcopy(self).cpu()
        for positions in torch.split(examples.positions, _BATCH):
            (given,) = onsite.inputs(examples.x[positions])
            yield onsite.network.features(given), examples.y[positions].long(), positions
