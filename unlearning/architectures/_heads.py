"""Classifiers whose network is a linear head: fitted to the minimum, and without rows again."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unlearning.architectures._classifier import Classifier
from unlearning.core import ranks
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from unlearning.heads import linear, logistic, multinomial, ridge, statistics
from unlearning.heads.linear import LinearHead
from unlearning.heads.logistic import LogisticHead
from unlearning.heads.multinomial import Problem, Slope
from unlearning.heads.quasi_newton import Found
from unlearning.heads.ridge import RidgeHead
from unlearning.heads.statistics import Statistics

#: Rows whose features are in memory at once.
_BATCH = 4096
#: Numbers of features that are kept in memory between passes over the rows: 1 GiB.
_MOST_KEPT = 2**27

Move = Callable[[Statistics, Tensor, Tensor, Tensor], Statistics]


def _silent(_fraction: float) -> None:
    """Ignore progress."""


class HeadClassifier(Classifier, ABC):
    """A linear head with the transform of its input.

    Features are always computed on the CPU, whose sums and cosines do not depend on the device on
    which the model runs.
    """

    network: LinearHead

    @abstractmethod
    def fit_to_minimum(
        self,
        train: Examples,
        validation: Examples,
        progress: Callable[[float], None] = _silent,
    ) -> Statistics:
        """Fit in place; choose λ, unless it is given, on ``validation``.

        Return the statistics of ``train``: they contain its rows and are never served.
        """

    def sums(self, train: Examples, progress: Callable[[float], None] = _silent) -> Statistics:
        """Return the statistics of these rows; errors as in ``statistics.added``."""
        head = self.network
        start = statistics.empty(
            features=head.width,
            classes=head.classes,
            storage_rows=len(train.y),
            bits=head.bits,
            encoding=self.encoding(),
        )
        division = ranks.by_batches(len(train), _BATCH)
        part = self._moved(start, division.part(train), statistics.added, progress)
        return statistics.united(part, division.summed) if division.bounds else part

    def with_rows(self, found: Statistics, examples: Examples) -> Statistics:
        """Return the statistics with these rows as well; errors as in ``statistics.added``."""
        return self._moved(found, examples, statistics.added)

    def without_rows(self, found: Statistics, examples: Examples) -> Statistics:
        """Return the statistics without these rows; errors as in ``statistics.deleted``."""
        return self._moved(found, examples, statistics.deleted)

    def encoding(self) -> str:
        """Return the SHA-256 of what makes features of a stored row.

        That is the kind of input with its options, the encoder's digest among them, the transform,
        and the head's grid and lift.
        """
        head = self.network
        said = {
            "input": None if self.kind is None else self.kind.name,
            "options": None if self.kind is None else dataclasses.asdict(self.kind.options),
            "transform": None if self.transform is None else dataclasses.asdict(self.transform),
            "bits": head.bits,
            "lift": [head.lifted_to, head.bandwidth, head.lift_seed] if head.lifted_to else None,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @torch.no_grad()
    def _moved(
        self,
        found: Statistics,
        examples: Examples,
        move: Move,
        progress: Callable[[float], None] = _silent,
    ) -> Statistics:
        encoding = self.encoding()
        if found.encoding not in ("", encoding):
            raise WrongOptions(
                "the statistics are of features that were made otherwise: by another encoder, "
                "transform, grid or lift; fit the model again"
            )
        done = 0
        for q, y, positions in self._batches(examples):
            found = move(found, q, y, positions)
            done += len(y)
            progress(done / len(examples))
        return replace(found, encoding=encoding)

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


class RidgeClassifier(HeadClassifier):
    """A ridge head with the transform of its input."""

    network: RidgeHead

    def fit_to_minimum(
        self,
        train: Examples,
        validation: Examples,
        progress: Callable[[float], None] = _silent,
    ) -> Statistics:
        """Fit in place; choose λ, unless it is given, and the temperature on ``validation``.

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

    def refitted(self, found: Statistics) -> RidgeClassifier:
        """Return a copy with the weights of these statistics, and λ and temperature as they are."""
        made = copy.deepcopy(self)
        penalty = float(self.network.penalty)
        weights = ridge.solve(found, penalty)
        made.network.set(weights, found.class_counts, penalty=penalty)
        return made


class LogisticClassifier(HeadClassifier):
    """A logistic head with the transform of its input."""

    network: LogisticHead

    @torch.no_grad()
    def fit_to_minimum(
        self,
        train: Examples,
        validation: Examples,
        progress: Callable[[float], None] = _silent,
    ) -> Statistics:
        """Fit in place; choose λ, unless it is given, on ``validation``.

        Return the statistics of ``train`` with the Hessian's factor: they contain its rows and are
        never served.
        """
        head = self.network
        found = self.sums(train)
        batches = self._read(train)

        def problem(penalty: float) -> Problem:
            return Problem(batches, linear.offset(found.class_counts), penalty)

        penalty = head.given_penalty or logistic.chosen_penalty(
            problem, found.gram, *self._features(validation)
        )
        reached, factor = logistic.fitted(problem(penalty), found.gram, progress)
        head.set(reached.weights, found.class_counts, penalty=penalty)
        return replace(found, factor=factor)

    @torch.no_grad()
    def refitted(
        self,
        found: Statistics,
        retain: Examples,
        *,
        factor: Tensor | None,
        progress: Callable[[float], None] = _silent,
    ) -> tuple[LogisticClassifier, Statistics, Found[Slope]]:
        """Return a copy at the minimum over ``retain``, searched from the present weights.

        ``found`` are the sums of ``retain``; they are returned with their own factor, and so is
        where the search ended. ``factor``: of the Hessian over nearly these rows, None if there is
        none. Raise ``WrongOptions`` if no minimum is found.
        """
        posed = self.problem(found, retain)
        present = posed.present[:, None]
        start = torch.where(present, self.network.weight.detach().cpu(), 0.0).T.contiguous()
        inverse = (
            logistic.by_bound(found.gram, posed)
            if factor is None
            else logistic.by_factor(factor, posed)
        )
        reached = logistic.minimum(posed, start, inverse, progress)
        if start.numel() <= logistic.MOST_FACTORED:
            # Computed anew: one that is updated would still tell of the rows that are gone.
            found = replace(found, factor=multinomial.factor(posed, reached.weights))
        made = copy.deepcopy(self)
        made.network.set(reached.weights, found.class_counts, penalty=posed.penalty)
        return made, found, reached

    @torch.no_grad()
    def slope(self, found: Statistics, examples: Examples) -> Slope:
        """Return the slope of the objective over ``examples``, whose sums are ``found``."""
        weights = self.network.weight.detach().cpu().T.contiguous()
        return multinomial.slope(self.problem(found, examples), weights)

    def problem(self, found: Statistics, examples: Examples) -> Problem:
        """Return the objective over ``examples``, whose sums are ``found``, with the head's λ."""
        return Problem(
            self._read(examples), linear.offset(found.class_counts), float(self.network.penalty)
        )

    def _read(self, examples: Examples) -> Callable[[], Iterator[multinomial.Batch]]:
        """Return what yields the rows' features and labels, kept in memory if they are few."""

        def batches() -> Iterator[multinomial.Batch]:
            return ((q, y) for q, y, _ in self._batches(examples))

        if len(examples) * self.network.width > _MOST_KEPT:
            return batches
        kept = list(batches())
        return lambda: iter(kept)


#: By the kind of head.
OF_HEAD: dict[type[LinearHead], type[HeadClassifier]] = {
    RidgeHead: RidgeClassifier,
    LogisticHead: LogisticClassifier,
}
