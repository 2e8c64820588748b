"""The networks of the benchmark: the upper layers of an encoder, and a small transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.text import banking
from unlearning.architectures import Classifier, EncoderNetwork, classifier
from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe

#: Layers of the encoder that are trained.
LAST_LAYERS = 2


@dataclass(frozen=True)
class Problem:
    """A network, how it is trained, and the rows."""

    name: str
    fresh: Callable[[int], nn.Module]
    recipe: Recipe
    train: Examples
    validation: Examples
    test: Examples
    #: Labels (n,) int64 of the training rows as the source has them.
    true: Tensor
    #: Sets of training rows to forget, (k,) int64 each.
    sets: Mapping[str, Tensor]


def sets(texts: banking.Texts, *, random: int, mislabelled: int) -> dict[str, Tensor]:
    """Return random training rows with their right labels, and rows with wrong ones."""
    generator = torch.Generator().manual_seed(1)
    right = torch.ones(texts.train, dtype=torch.bool)
    right[texts.flipped] = False
    clean = right.nonzero()[:, 0]
    drawn = torch.randperm(len(clean), generator=generator)[:random]
    wrong = torch.randperm(len(texts.flipped), generator=generator)[:mislabelled]
    return {"random": clean[drawn].sort().values, "mislabelled": texts.flipped[wrong].sort().values}


def last_layers(
    encoded: banking.Encoded, forgotten: Mapping[str, Tensor], *, epochs: int
) -> Problem:
    """Return the encoder's last layers on activations of the layers below, computed once."""
    texts = encoded.texts
    encoder = encoded.encoder
    h, mask = encoded.activations(len(encoder.layers) - LAST_LAYERS)
    shared = _Activations(h, mask)

    def fresh(seed: int) -> nn.Module:
        parameters = {
            "encoder": "0" * 64,
            "last_layers": LAST_LAYERS,
            "vocabulary": encoder.vocabulary,
            "length": banking.LENGTH,
            "classes": texts.classes,
        }
        generator = torch.Generator().manual_seed(seed)
        made = classifier(
            "encoder_classifier", parameters, None, generator=generator, files={"encoder": encoder}
        )
        assert isinstance(made.network, EncoderNetwork)
        return Classifier(_Upper(made.network, shared), None)

    recipe = Recipe(
        optimiser="adamw", learning_rate=3e-4, weight_decay=0.01, batch_size=64, epochs=epochs,
        schedule="linear", warmup_epochs=1, keep="last", alpha=0.0,
    )  # fmt: skip
    numbers = torch.arange(len(texts.texts), dtype=torch.int32)[:, None]
    return _problem("last-layers", fresh, recipe, texts, numbers, forgotten)


def from_scratch(texts: banking.Texts, forgotten: Mapping[str, Tensor], *, epochs: int) -> Problem:
    """Return a small transformer with a tokenizer of its own."""
    ids, kind = banking.tokens(texts.texts, banking.own_tokenizer(texts))
    parameters: dict[str, Any] = {
        "vocabulary": kind.options.vocabulary,
        "length": banking.LENGTH,
        "classes": texts.classes,
        "width": 64,
        "layers": 2,
        "hidden": 128,
    }

    def fresh(seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return classifier("transformer", parameters, None, kind=kind, generator=generator)

    recipe = Recipe(
        optimiser="adamw", learning_rate=2e-3, weight_decay=0.01, batch_size=64, epochs=epochs,
        schedule="linear", warmup_epochs=1, keep="last", alpha=0.0,
    )  # fmt: skip
    return _problem("transformer", fresh, recipe, texts, ids, forgotten)


def _problem(
    name: str,
    fresh: Callable[[int], nn.Module],
    recipe: Recipe,
    texts: banking.Texts,
    x: Tensor,
    forgotten: Mapping[str, Tensor],
) -> Problem:
    held = texts.train + texts.validation
    rows = torch.arange(len(x))
    return Problem(
        name,
        fresh,
        recipe,
        Examples(x, texts.y, rows[: texts.train]),
        Examples(x, texts.y, rows[texts.train : held]),
        Examples(x, texts.y, rows[held:]),
        texts.true[: texts.train],
        forgotten,
    )


class _Activations:
    """What the frozen layers make of every text; copies of a network share it."""

    def __init__(self, h: Tensor, mask: Tensor) -> None:
        self.h, self.mask = h, mask

    def __deepcopy__(self, memo: dict[int, Any]) -> _Activations:
        return self


class _Upper(nn.Module):
    """The trained layers of an encoder, called with numbers of texts (n, 1)."""

    def __init__(self, network: EncoderNetwork, below: _Activations) -> None:
        super().__init__()
        self.network, self.below = network, below

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, 0].long()
        mask = self.below.mask[rows]
        length = _longest(mask)
        return self.network.after(self.below.h[rows, :length], mask[:, :length])


def _longest(mask: Tensor) -> int:
    try:
        return int(mask.any(0).nonzero().max()) + 1
    except RuntimeError:  # under vmap the length may not follow from the values
        return int(mask.shape[1])
