"""Forget customers' questions to a bank: Banking77, 77 intents, 5 % of the labels wrong.

    make bench-text OPTIONS='--data FOLDER --encoder FOLDER'
    make bench-text OPTIONS='--only head'
    make bench-text OPTIONS=--quick

Three models: a head in closed form on the features of a frozen encoder, the encoder's last two
layers, and a small transformer trained from the start. 100 random rows and 40 mislabelled ones are
forgotten from each, and compared with models retrained without them. What is trained is kept in
``benchmarks/cache/text``; ``--resume`` measures what the last run has not finished.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import parts
from benchmarks.parts import Found, Part
from benchmarks.progress import Tell
from benchmarks.text import banking, exact, measuring, problems
from benchmarks.text.problems import Problem
from unlearning.anchored.margins import Splits

NAMES = ("head", "last-layers", "transformer")


@dataclass(frozen=True)
class Sizes:
    """Training rows of the networks (None: all), and how much is trained."""

    rows: int | None
    random: int
    mislabelled: int
    retrained: int
    splits: int
    layer_epochs: int
    transformer_epochs: int


FULL = Sizes(None, 100, 40, 3, 2, 10, 30)
QUICK = Sizes(1_000, 40, 40, 1, 1, 8, 40)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="of the files")
    parser.add_argument("--encoder", type=Path, help="directory of a text encoder")
    parser.add_argument("--quick", action="store_true", help="fewer rows and trainings: minutes")
    parts.add_options(parser, NAMES)
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else FULL
    folder = banking.folder_of_the_encoder(asked.encoder)
    whole = banking.Encoded(banking.read(asked.data, rows=None), folder)
    some = banking.Encoded(banking.read(asked.data, rows=sizes.rows), folder)
    forgotten = problems.sets(some.texts, random=sizes.random, mislabelled=sizes.mislabelled)

    def head(tell: Tell) -> Found:
        rows = problems.sets(whole.texts, random=FULL.random, mislabelled=FULL.mislabelled)
        return exact.measure(whole, rows, tell)

    def network(problem: Problem, tell: Tell) -> Found:
        splits = Splits(sizes.splits, 2)
        return measuring.measure(problem, retrained=sizes.retrained, splits=splits, tell=tell)

    def layers(tell: Tell) -> Found:
        tell(0.0, "activations")
        return network(problems.last_layers(some, forgotten, epochs=sizes.layer_epochs), tell)

    def transformer(tell: Tell) -> Found:
        problem = problems.from_scratch(some.texts, forgotten, epochs=sizes.transformer_epochs)
        return network(problem, tell)

    measured = (
        Part("head", head),
        Part("last-layers", layers, 8.0),
        Part("transformer", transformer, 3.0),
    )
    parts.measure(
        "text-quick" if asked.quick else "text",
        measured,
        only=asked.only,
        resume=asked.resume,
        options=asdict(sizes),
    )


if __name__ == "__main__":
    main()
