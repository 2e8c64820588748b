"""Encoders that were trained elsewhere, as their own library builds them, with frozen weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.errors import WrongOptions

#: Kinds of encoders (``model_type`` of their config.json) that can be used.
KINDS = ("bert", "electra", "roberta", "xlm-roberta")

#: Weights of files that no encoder here has: heads of the encoder's own training, and buffers.
_LEFT_OUT = ("pooler.", "cls.", "lm_head.", "classifier.", "discriminator_predictions.")
_BUFFERS = ("position_ids", "token_type_ids")

#: Of a config.json, what is the same here whatever it says: weights are float32 and rows are whole;
#: and the names of the classes of a head, which is not built.
_UNUSED = frozenset(
    ("dtype", "torch_dtype", "chunk_size_feed_forward", "num_labels", "id2label", "label2id")
)


class Encoder:
    """An encoder's frozen layers: ids (n, l) int64 and mask (n, l) bool to (n, l, width) float32.

    No part of a network that uses it: its weights are in no checkpoint, and copies share it.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        body = _built(config, weights)
        body.requires_grad_(False).eval()
        self.kind = str(config["model_type"])
        self.width = int(body.config.hidden_size)
        self.vocabulary = int(body.config.vocab_size)
        self.length = _positions(body.config)
        self.embeddings: nn.Module = body.embeddings
        # Of kinds whose embeddings are narrower than their layers.
        self.projection: nn.Module = getattr(body, "embeddings_project", nn.Identity())
        self.layers = list(body.encoder.layer)
        self.parameters = sum(p.numel() for p in body.parameters())

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        return self

    def until(self, layer: int, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what the first ``layer`` layers make of the tokens, without a gradient."""
        self._move(ids.device)
        with torch.no_grad():
            h: Tensor = self.projection(self.embeddings(input_ids=ids))
            for one in self.layers[:layer]:
                h = through(one, h, mask)
        return h

    def pooled(self, ids: Tensor, mask: Tensor, *, pooling: str) -> Tensor:
        """Return the features (n, width) of all layers."""
        return pool(self.until(len(self.layers), ids, mask), mask, pooling)

    def _move(self, device: torch.device) -> None:
        if next(self.embeddings.parameters()).device != device:
            for module in (self.embeddings, self.projection, *self.layers):
                module.to(device)


def through(layer: nn.Module, h: Tensor, mask: Tensor) -> Tensor:
    """Return what a layer makes of ``h`` (n, l, width), attending to where ``mask`` is true."""
    found = layer(h, attention_mask=mask[:, None, None, :])
    made: Tensor = found[0] if isinstance(found, tuple) else found
    return made


def pool(h: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return a row's mean over its tokens, or its first token, (n, width) of h (n, l, width)."""
    if pooling == "first":
        return h[:, 0]
    kept = mask[:, :, None].to(h.dtype)
    return (h * kept).sum(1) / kept.sum(1).clamp(min=1)


def _built(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return the library's encoder with these weights; raise ``WrongOptions``."""
    _check(config, weights)
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise WrongOptions(
            "this worker cannot build encoders; install the extra: pip install 'unlearn[encoders]'"
        ) from None
    given = {
        name: value
        for name, value in config.items()
        if name != "model_type" and name not in _UNUSED
    }
    options: dict[str, Any] = {"attn_implementation": "sdpa", "trust_remote_code": False}
    if config["model_type"] != "electra":  # which never has one
        options["add_pooling_layer"] = False
    try:
        made = AutoConfig.for_model(config["model_type"], **given)
        # Without memory first: a size in the file may be wrong, and is compared with the weights.
        with torch.device("meta"):
            shapes = AutoModel.from_config(made, **options).state_dict()
    except Exception as error:  # the library's own, whose message may quote the file
        raise WrongOptions(
            f"config.json does not describe an encoder of its model_type ({type(error).__name__})"
        ) from None
    named = _named(weights)
    _compare(named, shapes)
    with torch.random.fork_rng(devices=[]):
        body = AutoModel.from_config(made, **options)
    body.load_state_dict({name: named[name].to(torch.float32) for name in shapes})
    return body


def _check(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    if config.get("model_type") not in KINDS:
        raise WrongOptions(
            f"config.json must have the model_type of a text encoder: {', '.join(KINDS)}"
        )
    if "auto_map" in config or "quantization_config" in config or config.get("is_decoder"):
        raise WrongOptions(
            "config.json names code of its own (auto_map), quantised weights, or a decoder; save "
            "the plain encoder with save_pretrained"
        )
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > len(weights):  # they would be built to be compared
        raise WrongOptions(
            f"config.json asks for {layers} layers and model.safetensors has {len(weights)} "
            "tensors; both must be of one save_pretrained"
        )


def _named(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's weights under its own names: files of larger models prefix them."""
    first = {name.split(".", 1)[0] for name in weights if ".encoder." in name}
    prefix = f"{first.pop()}." if len(first) == 1 else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return {
        name: tensor
        for name, tensor in named.items()
        if not name.startswith(_LEFT_OUT) and not name.endswith(_BUFFERS)
    }


def _compare(named: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> None:
    """Raise ``WrongOptions`` unless the weights are those of the configuration, and finite."""
    if missing := sorted(shapes.keys() - named.keys()):
        raise WrongOptions(
            f"model.safetensors lacks {len(missing)} tensors that config.json asks for, such as "
            f"{missing[0]}; both must be of one save_pretrained"
        )
    if more := sorted(named.keys() - shapes.keys()):
        raise WrongOptions(
            f"model.safetensors has {len(more)} tensors that config.json does not ask for, such as "
            f"{more[0][:80]}; both must be of one save_pretrained"
        )
    for name, wanted in shapes.items():
        if named[name].shape != wanted.shape:
            raise WrongOptions(
                f"{name} has the shape {tuple(named[name].shape)} in model.safetensors and "
                f"{tuple(wanted.shape)} by config.json; both must be of one save_pretrained"
            )
        if not torch.isfinite(named[name]).all():
            raise WrongOptions(f"{name} in model.safetensors has values that are not finite")


def _positions(config: Any) -> int:
    """Return the longest row: kinds that count positions from the padding id lose those below."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta"):
        if config.pad_token_id is None:
            raise WrongOptions("config.json has no pad_token_id, and this encoder counts from it")
        return positions - int(config.pad_token_id) - 1
    return positions
