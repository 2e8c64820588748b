"""Send the results of a training's epochs to the worker while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.messages.train import Curve, Results
from unlearning.core.epochs import Epoch

#: Least time between two messages.
SECONDS = 1.0
#: Least growth between two messages: each holds all epochs so far.
GROWTH = 1.01


class Recorder:
    """Collects the results of epochs, and sends all of them from time to time."""

    def __init__(
        self, *, training_rows: int, validation_rows: int, tell: Callable[[Curve], None]
    ) -> None:
        self._rows = {"training_rows": training_rows, "validation_rows": validation_rows}
        self._tell = tell
        self._epochs: list[Results] = []
        self._due, self._least = 0.0, 0.0

    def __len__(self) -> int:
        return len(self._epochs)

    def add(self, epoch: Epoch) -> None:
        """Add the results of the next epoch."""
        self._epochs.append(
            (
                epoch.training_loss,
                epoch.validation_loss,
                epoch.validation_accuracy,
                epoch.learning_rate,
            )
        )
        if time.monotonic() >= self._due and len(self) >= self._least:
            self._due, self._least = time.monotonic() + SECONDS, GROWTH * len(self)
            self._tell(self.curve())

    def curve(self) -> Curve:
        """Return the results of all epochs so far."""
        return Curve(**self._rows, epochs=list(self._epochs))
