"""Processes that compute one thing together, and what they exchange.

The *ranks* are the processes of ``torch.distributed``'s default group, if one was made. Each
of them runs the same program on the same arguments. Where work is divided by rows, each takes a
part and all receive the same result, bit for bit; everything else is computed by each of them
alike. Without a group there is one rank, which takes everything, and nothing is exchanged.

Sums are made in float64 in the order of the ranks, so that they do not depend on the order in which
messages arrive, as those of NCCL's and Gloo's reductions may.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from unlearning.core.examples import Examples, pieces
from unlearning.errors import LostRank


def count() -> int:
    """Return the number of ranks."""
    grouped = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if grouped else 1


def own() -> int:
    """Return the number of this rank, from 0."""
    return distributed.get_rank() if count() > 1 else 0


@dataclass(frozen=True)
class Division:
    """How rows are divided among the ranks: ``bounds[r]`` are the first row of rank r and the end.

    Without bounds, each rank takes all rows.
    """

    bounds: tuple[tuple[int, int], ...] = ()

    def part(self, examples: Examples) -> Examples:
        """Return the examples that this rank takes."""
        if not self.bounds:
            return examples
        return examples.subset(torch.arange(*self.bounds[own()]))

    def rows(self, rows: Tensor) -> Tensor:
        """Return the entries (m,) of ``rows`` (n,) that this rank takes."""
        if not self.bounds:
            return rows
        begin, end = self.bounds[own()]
        return rows[begin:end]

    def share(self) -> float:
        """Return the share of this rank's rows in all of them."""
        if not self.bounds:
            return 1.0
        begin, end = self.bounds[own()]
        return (end - begin) / self.bounds[-1][1]

    def joined(self, part: Tensor) -> Tensor:
        """Return the parts (rows, ...) of all ranks one after another; ``part`` is this rank's."""
        if not self.bounds:
            return part
        sizes = [end - begin for begin, end in self.bounds]
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part
        # As bytes: the backends do not take every type.
        sent = padded.reshape(-1).view(torch.uint8)
        received = sent.new_empty(len(sizes) * len(sent))
        with _exchange():
            distributed.all_gather(list(received.chunk(len(sizes))), sent)
        parts = received.view(part.dtype).view(len(sizes), *padded.shape)
        return torch.cat([one[:size] for one, size in zip(parts, sizes, strict=True)])

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of each rank's tensors; they are unchanged if nothing was divided."""
        return summed(tensors) if self.bounds else list(tensors)


def by_batches(rows: int, size: int) -> Division:
    """Divide the mini-batches of ``size`` into which ``examples.pieces`` cuts ``rows``.

    The batches stay as they are, so that what each of them gives does not depend on the number of
    ranks. Fewer batches than ranks are not divided.
    """
    batches = pieces(rows, size)
    if count() == 1 or len(batches) < count():
        return Division()
    limits = [rank * len(batches) // count() for rank in range(count() + 1)]
    starts = [*(here.start for here in batches), rows]
    return Division(tuple((starts[a], starts[b]) for a, b in itertools.pairwise(limits)))


def of_batch(rows: int) -> Division:
    """Divide the rows of one mini-batch.

    No part has a single row, which batch normalisation refuses, unless the batch has; the last
    ranks may have none.
    """
    if count() == 1:
        return Division()
    taking = max(1, min(count(), rows // 2))
    limits = [min(rank, taking) * rows // taking for rank in range(count() + 1)]
    return Division(tuple(itertools.pairwise(limits)))


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums over the ranks of tensors, which have the same shapes on each, on one device.

    Each rank adds up a part of the entries, in float64, and sends the others the result: as much is
    sent as in the usual reductions.
    """
    if count() == 1 or not tensors:
        return list(tensors)
    kind = tensors[0].dtype
    for one in tensors[1:]:
        kind = torch.promote_types(kind, one.dtype)
    flat = torch.cat([one.detach().reshape(-1).to(kind) for one in tensors])
    entries = len(flat)
    flat = nn.functional.pad(flat, (0, -entries % count()))
    received = torch.empty_like(flat)
    with _exchange():
        distributed.all_to_all_single(received, flat)
    parts = received.view(count(), -1)
    wide = torch.float64 if kind.is_floating_point else torch.int64
    total = parts[0].to(wide)
    for part in parts[1:]:
        total += part
    with _exchange():
        distributed.all_gather(list(flat.chunk(count())), total.to(kind))
    found = torch.split(flat[:entries], [one.numel() for one in tensors])
    return [sums.view(one.shape).to(one.dtype) for sums, one in zip(found, tensors, strict=True)]


def all_true(here: bool) -> bool:
    """Return whether it is true on every rank."""
    return int(summed([torch.tensor(int(here))])[0]) == count()


def copy_from_first(one: Tensor) -> None:
    """Set the tensor to what it is on the first rank, in place."""
    if count() == 1:
        return
    held = one.contiguous()
    with _exchange():
        distributed.broadcast(held, src=0)
    if held is not one:
        one.copy_(held)


@torch.no_grad()
def copy_first(model: nn.Module) -> None:
    """Give the model the weights and buffers that it has on the first rank, in place."""
    for one in model.state_dict().values():
        copy_from_first(one)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give the running statistics of normalisation the mean over the ranks; copy other buffers.

    In place. Other buffers are those of the first rank, which takes part in every batch.
    """
    if count() == 1:
        return
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    running = [one for m in layers for one in (m.running_mean, m.running_var) if one is not None]
    for one, total in zip(running, summed(running), strict=True):
        one.copy_(total / count())
    known = {id(one) for one in running}
    for one in model.buffers():
        if id(one) not in known:
            copy_from_first(one)


@contextmanager
def _exchange() -> Iterator[None]:
    """Raise ``LostRank`` where another rank does not take part."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank(f"another process of the computation was lost: {error}") from error
