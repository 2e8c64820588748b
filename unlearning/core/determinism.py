"""The same result again for the same seed, also on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# cuBLAS reads this when it is first used; its results may depend on the order of streams otherwise.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic() -> Iterator[None]:
    """Let torch choose algorithms on a GPU that give the same bits each time.

    By default the gradients of convolutions, embeddings and index operations are summed on a GPU
    in an order that differs between runs. An operation that has no deterministic form still runs,
    with torch's warning. Without a GPU nothing changes: a CPU's order is fixed by the number of
    threads. Use it as a context or a decorator.
    """
    if not torch.cuda.is_available():
        yield
        return
    algorithms = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic  # its attribute is set by torch when it is imported
    filled = filling.fill_uninitialized_memory
    flags = torch.backends.cudnn.flags(
        enabled=True,
        benchmark=False,
        deterministic=True,
        allow_tf32=torch.backends.cudnn.allow_tf32,
    )
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory finds errors in a program and costs a pass over it.
        filling.fill_uninitialized_memory = False
        with flags:
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=only_warned)
        filling.fill_uninitialized_memory = filled
