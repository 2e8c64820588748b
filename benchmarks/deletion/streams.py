"""Many batches in a row, each batch's rows erased before the next, against one batch of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.deletion.bench import Bench, Measured
from benchmarks.progress import Tell


@dataclass(frozen=True)
class Stream:
    """A number of batches, each of so large a share of the training rows."""

    batches: int
    share: float

    @property
    def title(self) -> str:
        """The stream in words."""
        return f"{self.batches} batches of {self.share:.1%}"


@dataclass(frozen=True)
class Streamed:
    """The model after a stream, after one batch of the same rows, and retrained."""

    stream: Stream
    step: str
    streamed: Measured
    at_once: Measured
    retrained: Measured


def run(
    bench: Bench,
    stream: Stream,
    steps: Sequence[str],
    retrained: Sequence[nn.Module],
    tell: Tell,
) -> list[Streamed]:
    """Measure a stream for each step; ``retrained`` models never saw ``rows_of`` it."""
    size = int(stream.share * len(bench.rows))
    rows = bench.chosen(size * stream.batches)
    gold = bench.line("retrain", rows, 0.0, retrained, retrained)
    found = []
    for step in steps:
        model, forgotten = bench.model, None
        tell(1.0, f"{stream.title}, {step}")
        for start in range(0, len(rows), size):
            tell(1.0)
            update = bench.unlearn(
                rows[start : start + size],
                step,
                model=model,
                forgotten=forgotten,
                gone=rows[:start] if start else None,
            )
            model, forgotten = update.model, update.forgotten
        at_once = bench.unlearn(rows, step).model
        lines = [
            bench.line(f"{step}, {title}", rows, 0.0, [one], retrained)
            for title, one in ((stream.title, model), ("at once", at_once))
        ]
        found.append(Streamed(stream, step, lines[0], lines[1], gold))
    return found


def rows_of(bench: Bench, stream: Stream) -> torch.Tensor:
    """Return the rows that a stream forgets."""
    return bench.chosen(int(stream.share * len(bench.rows)) * stream.batches)
