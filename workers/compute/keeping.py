"""Keep the state of a training in the store, so that an interrupted training can resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from models_store import Store, errors
from service.messages.parts import Kept
from unlearning.core import ranks, training_state
from unlearning.core.training_state import TrainingState
from unlearning.errors import WrongOptions
from workers.compute import workspace

log = logging.getLogger(__name__)

#: Largest share of a training's time that may be spent on keeping its state.
MOST_SHARE = 1 / 20


class Keeper:
    """Store the state after an epoch, at most every ``seconds``, and send the worker its digest.

    ``owner`` is the id of the training run or batch, by which its states are found.
    """

    def __init__(
        self, store: Store, *, owner: str, seconds: float, tell: Callable[[Kept], None]
    ) -> None:
        self._store, self._owner, self._seconds, self._tell = store, owner, seconds, tell
        self._due = time.monotonic() + seconds

    def __call__(self, state: TrainingState) -> None:
        """Store the state if it is time; the worker destroys the previous one."""
        began = time.monotonic()
        if began < self._due or ranks.own():  # of several processes the first one keeps it
            return
        # Files are named by their content: that of a training that does the same is another one.
        owner = torch.tensor(list(self._owner.encode()), dtype=torch.uint8)
        named = {**state.to_tensors(), "owner": owner}
        saved = workspace.save(self._store, "trainings", named, {"owner": self._owner})
        self._tell(Kept(digest=saved.digest, epoch=len(state.history)))
        now = time.monotonic()
        self._due = now + max(self._seconds, (now - began) / MOST_SHARE if self._seconds else 0.0)


def load(store: Store, digest: str | None) -> TrainingState | None:
    """Return the state kept under ``digest``; None if there is none or it cannot be read.

    None also if another of the processes that compute together cannot read it.
    """
    if digest is None:
        return None
    found = _read(store, digest)
    return found if ranks.all_true(found is not None) else None


def _read(store: Store, digest: str) -> TrainingState | None:
    try:
        return training_state.from_tensors(workspace.load(store, "trainings", digest))
    except (errors.CorruptCheckpoint, errors.NotStored, WrongOptions) as damage:
        log.warning("the training starts again: %s", damage)
        return None
