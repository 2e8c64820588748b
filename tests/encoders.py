"""Small encoders with random weights, in the form of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from tests import texts

WIDTH, LAYERS, LENGTH = 64, 2, 12
_SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 0,
}


def model(
    kind: str = "bert",
    *,
    vocabulary: int = texts.VOCABULARY,
    seed: int = 0,
    layers: int = LAYERS,
    length: int = LENGTH,
) -> torch.nn.Module:
    """The library's own network."""
    made = {
        "bert": (BertConfig, BertModel),
        "electra": (ElectraConfig, ElectraModel),
        "roberta": (RobertaConfig, RobertaModel),
    }
    config, network = made[kind]
    torch.manual_seed(seed)
    sizes = {**_SIZES, "num_hidden_layers": layers, "max_position_embeddings": length}
    if kind == "electra":
        sizes["embedding_size"] = 8
    found: torch.nn.Module = network(config(vocab_size=vocabulary, **sizes)).eval()
    with torch.no_grad():
        for p in found.parameters():  # so that each word has a direction of its own
            p.normal_(std=0.3) if p.dim() > 1 else None
    return found


def write(folder: Path, *, kind: str = "bert", **more: int) -> Path:
    """A directory with config.json, model.safetensors and tokenizer.json."""
    with torch.random.fork_rng():
        model(kind, **more).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(texts.tokenizer())
    return folder


IMAGE_SIDE, IMAGE_WIDTH = 16, 32


def image_model(*, seed: int = 0) -> torch.nn.Module:
    """The library's own network for images of 16 × 16 pixels, in patches of 8 × 8."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=IMAGE_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=IMAGE_SIDE,
        patch_size=8,
    )
    found: torch.nn.Module = ViTModel(config).eval()
    with torch.no_grad():
        for p in found.parameters():
            p.normal_(std=0.2) if p.dim() > 1 else None
    return found


def image_processor(**changed: Any) -> Any:
    """The library's own preprocessing of an image."""
    size = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    given = {"size": size, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.5, 0.2], **changed}
    return ViTImageProcessorPil(**given)


def write_images(folder: Path, **changed: Any) -> Path:
    """A directory with config.json, model.safetensors and preprocessor_config.json."""
    with torch.random.fork_rng():
        image_model().save_pretrained(folder)
    image_processor(**changed).save_pretrained(folder)
    return folder
