"""An encoder's network as its own library builds it from a configuration and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unlearning.errors import WrongOptions

#: Kinds of encoders (``model_type`` of their config.json) that can be used.
TEXT_KINDS = ("bert", "electra", "roberta", "xlm-roberta")
IMAGE_KINDS = ("vit",)

#: Weights of files that no encoder here has: heads of the encoder's own training, and buffers.
_LEFT_OUT = ("pooler.", "cls.", "lm_head.", "classifier.", "decoder.", "discriminator_predictions.")
_BUFFERS = ("position_ids", "token_type_ids")

#: Of a config.json, what is the same here whatever it says: weights are float32 and rows are whole;
#: and the names of the classes of a head, which is not built.
_UNUSED = frozenset(
    ("dtype", "torch_dtype", "chunk_size_feed_forward", "num_labels", "id2label", "label2id")
)

#: Names of an image encoder's files, and the library's own for the same weights.
_RENAMED = (
    ("encoder.layer.", "layers."),
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)


def built(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return the library's encoder with these weights, frozen; raise ``WrongOptions``."""
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
    named = _named(weights, image=config["model_type"] in IMAGE_KINDS)
    _compare(named, shapes)
    with torch.random.fork_rng(devices=[]):
        body = AutoModel.from_config(made, **options)
    body.load_state_dict({name: named[name].to(torch.float32) for name in shapes})
    return body.requires_grad_(False).eval()


def _check(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    if config.get("model_type") not in (*TEXT_KINDS, *IMAGE_KINDS):
        raise WrongOptions(
            f"config.json must have the model_type of a text encoder ({', '.join(TEXT_KINDS)}) or "
            f"of an image encoder ({', '.join(IMAGE_KINDS)})"
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


def _named(weights: Mapping[str, Tensor], *, image: bool) -> dict[str, Tensor]:
    """Return the encoder's weights under its own names: files of larger models prefix them."""
    first = {name.split(".", 1)[0] for name in weights if ".encoder." in name}
    prefix = f"{first.pop()}." if len(first) == 1 else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    kept = {
        name: tensor
        for name, tensor in named.items()
        if not name.startswith(_LEFT_OUT) and not name.endswith(_BUFFERS)
    }
    return {_renamed(name): tensor for name, tensor in kept.items()} if image else kept


def _renamed(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name


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
