"""States of trainings in the store."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models_store import open_store
from service.messages.parts import Kept
from unlearning.core import training
from unlearning.core.examples import Examples
from workers.compute import keeping


def test_trainings_that_do_the_same_keep_states_of_their_own(tmp_path: Path) -> None:
    """One that ends destroys its state, and the other still resumes from its own."""
    store, kept = open_store(tmp_path), dict[str, Kept]()
    y = torch.arange(24) % 3
    rows = Examples(nn.functional.one_hot(y, 6).float(), y)
    for owner in ("tr_one", "tr_other"):
        torch.manual_seed(0)

        def tell(one: Kept, owner: str = owner) -> None:
            kept[owner] = one

        training.fit(
            nn.Linear(6, 3),
            rows,
            rows,
            recipe=training.Recipe(epochs=2, batch_size=8),
            generator=torch.Generator().manual_seed(5),
            kept=keeping.Keeper(store, owner=owner, seconds=0.0, tell=tell),
        )
    store.blobs.delete("trainings", kept["tr_one"].digest)
    state = keeping.load(store, kept["tr_other"].digest)
    assert state is not None
    assert len(state.history) == 1
