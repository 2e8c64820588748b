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
from unlearning.architectures import Encoder
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions

KIND = inputs.kind(
    "text", {"tokenizer": "0" * 64, "max_length": 8, "vocabulary": texts.VOCABULARY, "pad": 0}
)


@pytest.fixture(scope="module", params=["bert", "electra", "roberta"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.write(tmp_path_factory.mktemp(request.param), kind=request.param)


def opened(folder: Path, **changed: Any) -> Encoder:
    config = json.loads((folder / "config.json").read_text()) | changed
    return Encoder(config, load_file(folder / "model.safetensors"))


def classifier(encoder: Encoder, **more: Any) -> architectures.Classifier:
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


@pytest.mark.parametrize("last_layers", [0, 1, 2])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_logits_are_those_of_the_librarys_own_encoder(
    found: Path, last_layers: int, pooling: str
) -> None:
    from transformers import AutoModel

    made = classifier(opened(found), last_layers=last_layers, pooling=pooling)
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
    head = classifier(encoder)
    assert set(head.network.state_dict()) == {"head.weight", "head.bias"}
    assert objective.flatten(head).numel() == 3 * (encoders.WIDTH + 1)
    last = classifier(encoder, last_layers=1)
    names = {name.split(".")[0] for name in objective.step_parameters(last.network)}
    assert names == {"layers", "head"}
    assert not [p for p in encoder.embeddings.parameters() if p.requires_grad]


def test_copies_share_the_frozen_part_and_not_the_trained_one(found: Path) -> None:
    encoder = opened(found)
    made = classifier(encoder, last_layers=1)
    other = copy.deepcopy(made)
    assert other.network.encoder is encoder
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(made(rows()), classifier(encoder, last_layers=1)(rows()))


def test_training_changes_no_frozen_weight_and_uses_no_dropout_there(found: Path) -> None:
    encoder = opened(found)
    made = classifier(encoder, dropout=0.0).train()
    assert torch.equal(made(rows()), made(rows()))


@pytest.mark.parametrize("last_layers", [0, 1])
def test_margins_have_vectorised_gradients(found: Path, last_layers: int) -> None:
    made = classifier(opened(found), last_layers=last_layers)
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
