"""Classifiers on encoders, against the library that the encoders come from."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import encoders, texts
from unlearning import architectures, inputs
from unlearning.anchored.jacobian import Jacobian
from unlearning.architectures import TextEncoder
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions

KIND = inputs.kind(
    "text", {"tokenizer": "0" * 64, "max_length": 8, "vocabulary": texts.VOCABULARY, "pad": 0}
)


@pytest.fixture(scope="module", params=["bert", "electra", "roberta"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.write(tmp_path_factory.mktemp(request.param), kind=request.param)


def opened(folder: Path, **changed: Any) -> TextEncoder:
    config = json.loads((folder / "config.json").read_text()) | changed
    encoder = architectures.encoder(config, load_file(folder / "model.safetensors"))
    assert isinstance(encoder, TextEncoder)
    return encoder


def classifier(encoder: architectures.Encoder, **more: Any) -> architectures.Classifier:
    given = {
        "encoder": "0" * 64,
        "vocabulary": texts.VOCABULARY,
        "length": 8,
        "classes": 3,
        **more,
    }
    return architectures.classifier(
        "encoder_classifier",
        given,
        None,
        kind=KIND,
        generator=torch.Generator().manual_seed(1),
        files={"encoder": encoder},
    ).eval()


def rows() -> Tensor:
    x = torch.zeros(5, 8, dtype=torch.int32)
    generator = torch.Generator().manual_seed(2)
    for row in range(5):
        count = 2 + row
        x[row, :count] = torch.randint(1, texts.VOCABULARY, (count,), generator=generator).int()
    return x


#: What may be trained beside the head.
PARTS: list[dict[str, Any]] = [
    {"last_layers": 0},
    {"last_layers": 1},
    {"last_layers": 2},
    {"trained": "lora", "lora_rank": 3},
    {"trained": "all"},
]


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_logits_are_those_of_the_librarys_own_encoder(
    found: Path, part: dict[str, Any], pooling: str
) -> None:
    from transformers import AutoModel

    made = classifier(opened(found), pooling=pooling, **part)
    known = AutoModel.from_pretrained(found, local_files_only=True).eval()
    x = rows().long()
    mask = x != 0
    h = known(input_ids=x, attention_mask=mask.long()).last_hidden_state
    mean = torch.stack([one[kept].mean(0) for one, kept in zip(h, mask, strict=True)])
    expected = made.network.head(h[:, 0] if pooling == "first" else mean)
    torch.testing.assert_close(made(rows()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_weights_are_float32_whatever_the_encoder_was_saved_in(found: Path, name: str) -> None:
    made = classifier(opened(found, **{name: "bfloat16"}))
    assert torch.equal(made(rows()), classifier(opened(found))(rows()))


def test_rows_are_taken_whole_whatever_the_pieces_of_a_layer(found: Path) -> None:
    made = classifier(opened(found, chunk_size_feed_forward=3))
    assert torch.equal(made(rows()), classifier(opened(found))(rows()))


def test_names_of_classes_that_are_not_built_take_no_time(found: Path) -> None:
    made = classifier(opened(found, num_labels=10**12, id2label=5))
    assert torch.equal(made(rows()), classifier(opened(found))(rows()))


def test_more_layers_than_there_are_weights_are_refused_unbuilt(found: Path) -> None:
    with pytest.raises(WrongOptions, match="asks for 1000000000 layers"):
        opened(found, num_hidden_layers=10**9)


def test_an_encoder_that_counts_from_its_padding_needs_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = encoders.write(tmp_path_factory.mktemp("roberta"), kind="roberta")
    with pytest.raises(WrongOptions, match="no pad_token_id"):
        opened(folder, pad_token_id=None)


def test_checkpoint_and_steps_have_the_trained_part_alone(found: Path) -> None:
    encoder = opened(found)
    alone = classifier(encoder)
    assert set(alone.network.state_dict()) == {"head.weight", "head.bias"}
    assert objective.flatten(alone).numel() == 3 * (encoders.WIDTH + 1)
    last = classifier(encoder, last_layers=1)
    names = {name.split(".")[0] for name in objective.step_parameters(last.network)}
    assert names == {"layers", "head"}
    lora = classifier(encoder, trained="lora", lora_rank=2)
    assert {name.split(".")[0] for name in lora.network.state_dict()} == {"adapters", "head"}
    changed = encoders.LAYERS * 4 * 2 * 2 * encoders.WIDTH  # A and B of rank 2, four projections
    assert objective.flatten(lora).numel() == changed + 3 * (encoders.WIDTH + 1)
    whole = classifier(encoder, trained="all")
    head = 3 * (encoders.WIDTH + 1)
    assert objective.flatten(whole).numel() == encoder.parameters + head
    assert not [p for p in weights_of(encoder) if p.requires_grad]


@pytest.mark.parametrize("part", PARTS[1:], ids=str)
def test_copies_share_the_frozen_part_and_not_the_trained_one(
    found: Path, part: dict[str, Any]
) -> None:
    encoder = opened(found)
    frozen = [p.clone() for p in weights_of(encoder)]
    made = classifier(encoder, **part)
    other = copy.deepcopy(made)
    assert other.network.encoder is encoder
    with torch.no_grad():
        for p in other.parameters():
            p.fill_(0.01)
    assert torch.equal(made(rows()), classifier(encoder, **part)(rows()))
    assert not torch.allclose(other(rows()), made(rows()))
    assert all(torch.equal(a, b) for a, b in zip(weights_of(encoder), frozen, strict=True))


def weights_of(encoder: architectures.Encoder) -> list[Tensor]:
    modules = (encoder.stem, *encoder.layers, encoder.norm)
    return [p for module in modules for p in module.parameters()]


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta"])
def test_low_rank_changes_are_those_of_the_merged_weights(tmp_path: Path, kind: str) -> None:
    encoder = opened(encoders.write(tmp_path, kind=kind))
    made = classifier(encoder, trained="lora", lora_rank=3, lora_alpha=12.0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in made.network.adapters.parameters():
            p.normal_(std=0.1, generator=generator)
    merged = classifier(encoder, last_layers=encoders.LAYERS)
    merged.network.head.load_state_dict(made.network.head.state_dict())
    for layer, changes in zip(merged.network.layers, made.network.adapters, strict=True):
        own = layer.attention.self
        linear = {f"self_{name}": getattr(own, name) for name in ("query", "key", "value")}
        linear["output_dense"] = layer.attention.output.dense
        assert set(changes) == set(linear)
        for name, projection in linear.items():
            change = changes[name].up.weight @ changes[name].down.weight
            projection.weight.data += 12 / 3 * change
    torch.testing.assert_close(made(rows()), merged(rows()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made(rows()), classifier(encoder)(rows()), atol=1e-2)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_step_of_training_changes_the_trained_part_alone(
    found: Path, part: dict[str, Any]
) -> None:
    encoder = opened(found)
    frozen = [p.clone() for p in weights_of(encoder)]
    made = classifier(encoder, dropout=0.0, **part).train()
    before = {name: t.clone() for name, t in made.state_dict().items()}
    chosen = torch.optim.SGD(made.parameters(), lr=1.0)
    for _ in range(2):  # the first step leaves A as it is, since B is zero
        chosen.zero_grad()
        task.loss(made(rows()), torch.arange(5) % 3).mean().backward()
        chosen.step()
    unchanged = [name for name, t in made.state_dict().items() if torch.equal(t, before[name])]
    unused = ("word_embeddings", "embeddings.weight", "position", "token_type", "key.bias")
    assert [name for name in unchanged if not any(word in name for word in unused)] == []
    assert all(torch.equal(a, b) for a, b in zip(weights_of(encoder), frozen, strict=True))


def test_training_changes_no_frozen_weight_and_uses_no_dropout_there(found: Path) -> None:
    encoder = opened(found)
    made = classifier(encoder, dropout=0.0).train()
    assert torch.equal(made(rows()), made(rows()))


@pytest.mark.parametrize("part", [PARTS[0], PARTS[1], *PARTS[3:]], ids=str)
def test_margins_have_vectorised_gradients(found: Path, part: dict[str, Any]) -> None:
    made = classifier(opened(found), **part)
    x, y = rows(), torch.arange(5) % 3
    jacobian = Jacobian(made, Examples(x, y), batch_size=2)
    each = torch.cat(list(jacobian.rows(size=2)))
    assert jacobian._vectorised
    for row in range(len(x)):
        phi = task.margin(made(x[row : row + 1]), y[row : row + 1])
        grads = torch.autograd.grad(phi, list(jacobian.parameters.values()))
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(each[row], expected, rtol=1e-3, atol=1e-5)


def test_weights_of_a_larger_model_are_found_under_their_prefix(tmp_path: Path) -> None:
    folder = encoders.write(tmp_path)
    weights = load_file(folder / "model.safetensors")
    other = {f"bert.{name}": t for name, t in weights.items()}
    other["cls.predictions.bias"] = torch.zeros(3)
    save_file(other, folder / "model.safetensors")
    assert opened(folder).width == encoders.WIDTH


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "gpt2"}, "model_type of a text encoder"),
        ({"auto_map": {"AutoModel": "theirs.Model"}}, "auto_map"),
        ({"hidden_size": 10**9}, "config.json|shape"),
        ({"hidden_size": "many"}, "does not describe an encoder"),
        ({"hidden_size": 20}, "has the shape"),
        ({"num_hidden_layers": 3}, "lacks"),
        ({"num_hidden_layers": 1}, "does not ask for"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_error(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    folder = encoders.write(tmp_path)
    with pytest.raises(WrongOptions, match=words):
        opened(folder, **changed)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = encoders.write(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WrongOptions, match="not finite"):
        opened(folder)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"last_layers": 3}, "has 2"),
        ({"last_layers": 1, "trained": "lora"}, "leave one of the two out"),
        ({"last_layers": 1, "trained": "all"}, "leave one of the two out"),
        ({"trained": "lora", "lora_rank": 65}, "lora_rank is 65"),
        ({"vocabulary": 100}, "encoder's own tokenizer"),
        ({"length": 100}, "tokens in a row"),
    ],
)
def test_parameters_that_do_not_fit_the_encoder_are_refused(
    tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    encoder = opened(encoders.write(tmp_path))
    with pytest.raises(WrongOptions, match=words):
        classifier(encoder, **more)
