"""The state of a training in the store, so that an interrupted one goes on where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from models_store import Store, errors
from service.messages.parts import Kept
from unlearning.core import training_state
from unlearning.core.training_state import TrainingState
from unlearning.errors import WrongOptions
from workers.compute import workspace

log = logging.getLogger(__name__)

#: Keeping takes at most this share of a training's time.
MOST_SHARE = 1 / 20


class Keeper:
    """Stores the state after an epoch, at most every ``seconds``, and tells the worker where.

    ``owner`` is the id of the training run or batch, by which its states are found.
    """

    def __init__(
        self, store: Store, *, owner: str, seconds: float, tell: Callable[[Kept], None]
    ) -> None:
        self._store, self._owner, self._seconds, self._tell = store, owner, seconds, tell
        self._due = time.monotonic() + seconds

    def __call__(self, state: TrainingState) -> None:
        """Store the state if it is time; the worker destroys the one before."""
        began = time.monotonic()
        if began < self._due:
            return
        saved = workspace.save(self._store, "trainings", state.to_tensors(), {"owner": self._owner})
        self._tell(Kept(digest=saved.digest, epoch=len(state.history)))
        now = time.monotonic()
        self._due = now + max(self._seconds, (now - began) / MOST_SHARE if self._seconds else 0.0)


def load(store: Store, digest: str | None) -> TrainingState | None:
    """The state kept under ``digest``; None where there is none that can be read."""
    if digest is None:
        return None
    try:
        return training_state.from_tensors(workspace.load(store, "trainings", digest))
    except (errors.CorruptCheckpoint, errors.NotStored, WrongOptions) as damage:
        log.warning("the training begins anew: %s", damage)
        return None
