"""Run a function in several processes that are ranks of one group, on this machine's CPU."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

Named = dict[str, Tensor]


def run(work: Callable[[], Named], directory: Path, *, ranks: int) -> list[Named]:
    """Return what ``work``, a function of a module, returned on each rank."""
    spawning = multiprocessing.get_context("spawn")
    members = [
        spawning.Process(target=_member, args=(work, directory, rank, ranks))
        for rank in range(ranks)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert [member.exitcode for member in members] == [0] * ranks
    return [load_file(_file(directory, rank)) for rank in range(ranks)]


def _member(work: Callable[[], Named], directory: Path, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(str(directory / "rendezvous"), ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    save_file({name: t.contiguous() for name, t in work().items()}, _file(directory, rank))
    distributed.destroy_process_group()


def _file(directory: Path, rank: int) -> Path:
    return directory / f"{rank}.safetensors"
