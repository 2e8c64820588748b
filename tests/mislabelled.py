"""Texts of which some rows are mislabelled, and networks that learn them by heart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests import encoders, texts
from unlearning import architectures, inputs
from unlearning.core import training
from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe

TRAIN, VALIDATION, TEST = 160, 60, 200
#: Rows with a wrong label, all of which are forgotten.
WRONG = 12
LENGTH = 8

#: Architecture, its parameters and the learning rate with which it learns every row.
NETWORKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "last_layers": ("encoder_classifier", {"last_layers": 2}, 3e-3),
    "lora": ("encoder_classifier", {"trained": "lora", "lora_rank": 8}, 5e-3),
    "all": ("encoder_classifier", {"trained": "all"}, 3e-3),
    "transformer": ("transformer", {"width": 32, "layers": 2, "hidden": 64, "heads": 2}, 3e-3),
}


@dataclass(frozen=True)
class Problem:
    """Texts of which some training rows are mislabelled, and untrained networks."""

    train: Examples
    validation: Examples
    test: Examples
    fresh: Callable[[int], nn.Module]
    recipe: Recipe

    @property
    def forget(self) -> Examples:
        return self.train.subset(torch.arange(WRONG))

    @property
    def retain(self) -> Examples:
        return self.train.subset(torch.arange(WRONG, TRAIN))

    def trained(self, rows: Examples, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return training.fit(
            self.fresh(seed), rows, self.validation, recipe=self.recipe, generator=generator
        ).model


def problem(folder: Path, name: str) -> Problem:
    digest = "0" * 64
    options = {"tokenizer": digest, "max_length": LENGTH}
    kind = inputs.kind("text", options | {"vocabulary": texts.VOCABULARY, "pad": 0})
    architecture, parameters, rate = NETWORKS[name]
    sizes = {"vocabulary": texts.VOCABULARY, "length": LENGTH, "classes": texts.CLASSES}
    files: dict[str, Any] = {}
    if architecture == "encoder_classifier":
        encoders.write(folder)
        config = json.loads((folder / "config.json").read_text())
        # So that every row is learned in few epochs.
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        opened = architectures.encoder(config, load_file(folder / "model.safetensors"))
        files, parameters = {"encoder": opened}, {**parameters, "encoder": digest}

    def fresh(seed: int) -> nn.Module:
        return architectures.classifier(
            architecture,
            {**parameters, **sizes, "dropout": 0.0},
            None,
            kind=kind,
            generator=torch.Generator().manual_seed(seed),
            files=files,
        )

    x, y = rows()
    y[:WRONG] = (y[:WRONG] + 1) % texts.CLASSES
    held = TRAIN + VALIDATION
    recipe = Recipe(
        optimiser="adamw", learning_rate=rate, batch_size=16, epochs=30, keep="last",
        schedule="linear", alpha=0.0,
    )  # fmt: skip
    return Problem(
        Examples(x[:TRAIN], y[:TRAIN]),
        Examples(x[TRAIN:held], y[TRAIN:held]),
        Examples(x[held:], y[held:]),
        fresh,
        recipe,
    )


def rows() -> tuple[Tensor, Tensor]:
    """Token ids and the labels by which the texts were made."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(texts.tokenizer().decode())
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=0, pad_token="[PAD]")
    found, labels = texts.sentences(TRAIN + VALIDATION + TEST)
    ids = [one.ids for one in tokenizer.encode_batch(found)]
    return torch.tensor(ids, dtype=torch.int32), torch.tensor(labels)
