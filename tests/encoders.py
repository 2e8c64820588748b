"""A small BERT-like encoder with random weights, in the form of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
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
    kind: str = "bert", *, vocabulary: int = texts.VOCABULARY, seed: int = 0
) -> torch.nn.Module:
    """The library's own network."""
    made = {
        "bert": (BertConfig, BertModel),
        "electra": (ElectraConfig, ElectraModel),
        "roberta": (RobertaConfig, RobertaModel),
    }
    config, network = made[kind]
    torch.manual_seed(seed)
    sizes = {**_SIZES, "embedding_size": 8} if kind == "electra" else _SIZES
    found: torch.nn.Module = network(config(vocab_size=vocabulary, **sizes)).eval()
    with torch.no_grad():
        for p in found.parameters():  # so that each word has a direction of its own
            p.normal_(std=0.3) if p.dim() > 1 else None
    return found


def write(folder: Path, *, kind: str = "bert", vocabulary: int = texts.VOCABULARY) -> Path:
    """A directory with config.json, model.safetensors and tokenizer.json."""
    with torch.random.fork_rng():
        model(kind, vocabulary=vocabulary).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(texts.tokenizer())
    return folder
