"""What a graphics card is worth for an encoder of texts, and for an exact head on its features.

The encoder has the size of MiniLM (six layers of width 384) and random weights, the texts are
random token ids, of which each class prefers some: what is measured here is time, not quality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unlearning import architectures, inputs, methods
from unlearning.anchored import margins, preparation
from unlearning.anchored.margins import Splits
from unlearning.anchored.preparation import Preparation
from unlearning.anchored.targets import BatchMargins
from unlearning.anchored.targets import fit as fit_targets
from unlearning.architectures import HeadClassifier, TextEncoder, Transform
from unlearning.core import training
from unlearning.core.examples import Examples
from unlearning.methods import Context, iau

#: What is trained of the encoder.
PARTS: dict[str, dict[str, Any]] = {
    "last_layers": {"last_layers": 2},
    "lora": {"trained": "lora", "lora_rank": 8},
}
#: Rows that are forgotten by the matched step, and those that are held: few enough for a kernel.
FORGOTTEN, HELD, MEMORY = 40, 56, 4096
#: A retraining is this many epochs; one is measured.
RETRAIN_EPOCHS = 10
DIGEST = "0" * 64
#: Runs something under a name and returns its seconds, with the peak of memory, and the result.
Time = Callable[[str, Callable[[], Any]], tuple[dict[str, float], Any]]


@dataclass(frozen=True)
class Sizes:
    """Rows, tokens of a row, classes, vocabulary; width and layers of the encoder."""

    rows: int
    length: int
    classes: int
    vocabulary: int
    width: int
    layers: int


FULL = Sizes(10_000, 32, 77, 30_522, 384, 6)
TINY = Sizes(300, 8, 5, 200, 48, 2)


def measure(device: torch.device, time: Time, *, tiny: bool) -> dict[str, Any]:
    """Return seconds of epochs, of a matched step, and of an exact head, with peaks of memory."""
    sizes = TINY if tiny else FULL
    encoder, kind = _encoder(sizes)
    train, validation = _rows(sizes)
    found: dict[str, Any] = {"rows": sizes.rows}
    for name, part in PARTS.items():
        found[name] = _part(device, time, name, part, sizes, encoder, kind, train, validation)
    found["exact_head"] = _head(device, time, sizes, encoder, train)
    return found


def _part(
    device: torch.device,
    time: Time,
    name: str,
    part: dict[str, Any],
    sizes: Sizes,
    encoder: TextEncoder,
    kind: inputs.Kind,
    train: Examples,
    validation: Examples,
) -> dict[str, Any]:
    def fresh(seed: int) -> nn.Module:
        given = {
            "encoder": DIGEST,
            "vocabulary": sizes.vocabulary,
            "length": sizes.length,
            "classes": sizes.classes,
            **part,
        }
        return architectures.classifier(
            "encoder_classifier",
            given,
            None,
            kind=kind,
            generator=torch.Generator().manual_seed(seed),
            files={"encoder": encoder},
        ).to(device)

    recipe = training.Recipe(
        optimiser="adamw", learning_rate=1e-3, batch_size=64, epochs=1, keep="last", alpha=0.0
    )

    def epoch(precision: Any) -> nn.Module:
        return training.fit(
            fresh(0),
            train,
            validation,
            recipe=dataclasses.replace(recipe, precision=precision),
            generator=torch.Generator().manual_seed(0),
        ).model

    # The first epoch compiles kernels and fills caches.
    time(f"{name}: first epoch", lambda: epoch("full"))
    full, model = time(f"{name}: epoch", lambda: epoch("full"))
    mixed, _ = time(f"{name}: epoch, bfloat16", lambda: epoch("bfloat16"))
    prepare, anchor = time(
        f"{name}: preparation",
        lambda: preparation.prepare(
            model,
            train,
            validation,
            options=Preparation(law_repeats=0),
            generator=torch.Generator().manual_seed(0),
        ),
    )
    out = margins.prepare(
        fresh,
        train,
        validation,
        trainer=margins.by_recipe(recipe, validation),
        options=Splits(1, 2),
        seed=1,
    )
    known = fit_targets(
        out,
        own=margins.of_examples(model, train),
        held_out=margins.of_examples(model, validation),
    )
    gone = torch.arange(FORGOTTEN)
    forget, retain = train.subset(gone), train.subset(torch.arange(FORGOTTEN, len(train)))
    step, update = time(
        f"{name}: matched step",
        lambda: iau.unlearn(
            model,
            forget,
            retain,
            options=iau.Options(retained_rows=HELD, memory_megabytes=MEMORY),
            context=Context(
                calibration=validation, anchor=anchor, margins=BatchMargins(known.of(gone))
            ),
            generator=torch.Generator().manual_seed(0),
        ),
    )
    return {
        "epoch": full,
        "epoch_bfloat16": mixed,
        "prepare": prepare,
        "matched": step | {"solver": update.notes.get("solver")},
        "retrain_over_update": RETRAIN_EPOCHS * full["seconds"] / step["seconds"],
    }


def _head(
    device: torch.device, time: Time, sizes: Sizes, encoder: TextEncoder, train: Examples
) -> dict[str, Any]:
    """Make features of all rows, fit a head on them, and delete rows from it."""

    def features() -> torch.Tensor:
        made = []
        for x, _ in train.batches(256, device=device):
            ids = x.long()
            made.append(encoder.pooled(ids, ids != 0, pooling="mean").cpu())
        whole = torch.cat(made)
        normal: torch.Tensor = whole / whole.norm(dim=1, keepdim=True)
        return normal

    making, x = time("features", features)
    rows = Examples(x, train.labels)
    given = {"inputs": sizes.width, "classes": sizes.classes, "penalty": 0.1}
    head = architectures.classifier("ridge", given, Transform()).to(device)
    assert isinstance(head, HeadClassifier)
    few = rows.subset(torch.arange(min(1000, len(rows))))
    fitting, statistics = time("exact head: fit", lambda: head.fit_to_minimum(rows, few))
    method = methods.get("downdate")
    deleting, _ = time(
        "exact head: deletion",
        lambda: method.unlearn(
            head,
            rows.subset(torch.arange(FORGOTTEN)),
            rows.subset(torch.arange(FORGOTTEN, len(rows))),
            options=method.options(),
            context=Context(statistics=statistics),
            generator=torch.Generator(),
        ),
    )
    return {"features": making, "fit": fitting, "deletion": deleting}


def _encoder(sizes: Sizes) -> tuple[TextEncoder, inputs.Kind]:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=12,
        intermediate_size=4 * sizes.width,
        max_position_embeddings=max(sizes.length, 2),
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = BertModel(config, add_pooling_layer=False).state_dict()
    encoder = architectures.encoder(config.to_dict(), weights)
    assert isinstance(encoder, TextEncoder)
    options = {"tokenizer": DIGEST, "max_length": sizes.length}
    return encoder, inputs.kind("text", options | {"vocabulary": sizes.vocabulary, "pad": 0})


def _rows(sizes: Sizes) -> tuple[Examples, Examples]:
    """Return training and validation rows: a token in two is of those that the class prefers."""
    generator = torch.Generator().manual_seed(0)
    count = sizes.rows + sizes.rows // 10
    y = torch.randint(sizes.classes, (count,), generator=generator)
    shape = (count, sizes.length)
    drawn = torch.randint(1, sizes.vocabulary, shape, generator=generator)
    each = (sizes.vocabulary - 1) // sizes.classes
    own = 1 + each * y[:, None] + drawn % each
    x = torch.where(torch.rand(shape, generator=generator) < 0.5, own, drawn).int()
    order = torch.arange(count)
    return Examples(x, y, order[: sizes.rows]), Examples(x, y, order[sizes.rows :])
