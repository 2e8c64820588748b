"""Texts of a few classes, and a tokenizer for them, both made here."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

CLASSES = 3
#: Words that one class prefers, and words of all.
OWN = [[f"{letter}{number}" for number in range(10)] for letter in "abc"]
COMMON = [f"w{number}" for number in range(10)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCABULARY = len(SPECIAL) + len(COMMON) + sum(map(len, OWN))


def tokenizer(*, pad: str = "[PAD]", words: list[str] | None = None) -> bytes:
    """A tokenizer.json with a token for each word, which adds [CLS] and [SEP]."""
    known = [*COMMON, *(word for some in OWN for word in some)] if words is None else words
    names = [pad, *SPECIAL[1:], *known]
    made = Tokenizer(
        models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([pad, *SPECIAL[1:]])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str().encode()


def sentences(rows: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of 2 to 8 words, two of three of them of those that their class prefers, and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    made = []
    for label in labels:
        words = [
            str(random.choice(OWN[label] if random.random() < 0.67 else COMMON))
            for _ in range(random.integers(2, 9))
        ]
        made.append(" ".join(words))
    return made, labels


def write_csv(path: Path, rows: int, *, seed: int = 0, first: int = 0) -> Path:
    """A source with ids s0, s1, … and a subject for every two rows."""
    found, labels = sentences(rows, seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "customer", "text", "label"])
        for row, (one, label) in enumerate(zip(found, labels, strict=True), start=first):
            table.writerow([f"s{row}", f"p{row // 2}", one, label])
    return path
