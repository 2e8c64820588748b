"""Texts as rows of token ids, against what the tokenizer itself says of each text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests import texts
from unlearning import inputs
from unlearning.inputs import BadFile, BadRow

LENGTH = 6


def reader(content: bytes | None = None, **options: Any) -> inputs.TextReader:
    found = texts.tokenizer() if content is None else content
    digest = hashlib.sha256(found).hexdigest()
    kind = inputs.kind("text", {"tokenizer": digest, "max_length": LENGTH, **options})
    made = kind.input.text_reader(kind.options, {"tokenizer": found})
    assert made is not None
    return made


def test_rows_are_the_ids_of_each_text_then_padding() -> None:
    known = Tokenizer.from_str(texts.tokenizer().decode())
    given = ["a1 w2", "b3", "c1 c2 c3 c4"]
    found = reader().encode(given)
    for row, text in zip(found.x.tolist(), given, strict=True):
        ids = known.encode(text).ids
        assert row == [*ids, *[0] * (LENGTH - len(ids))]
    assert found.x.dtype == np.int32
    assert (found.tokens, found.unknown) == (2 + 1 + 4, 0)
    assert not found.truncated.any()


def test_a_longer_text_is_cut_and_keeps_the_tokens_at_its_ends() -> None:
    found = reader().encode(["a1 a2 a3 a4 a5 a6", "a1 a2 a3 a4"])
    assert found.truncated.tolist() == [True, False]
    assert found.x[0].tolist() == found.x[1].tolist()
    assert found.x[0, [0, -1]].tolist() == [2, 3]


def test_unknown_and_empty_texts_are_told_apart() -> None:
    found = reader().encode(["a1 ж ж", "", "  "])
    assert (found.tokens, found.unknown) == (3, 2)
    assert found.empty.tolist() == [False, True, True]


def test_the_tokenizers_own_padding_and_truncation_do_not_count() -> None:
    other = Tokenizer.from_str(texts.tokenizer().decode())
    other.enable_padding(pad_id=0, pad_token="[PAD]", length=3, direction="left")
    other.enable_truncation(3)
    made = reader(other.to_str().encode())
    assert made.encode(["a1 a2 a3"]).x.tolist() == reader().encode(["a1 a2 a3"]).x.tolist()


def test_padding_of_the_tokenizers_own_takes_no_memory() -> None:
    other = Tokenizer.from_str(texts.tokenizer().decode())
    other.enable_padding(pad_id=0, pad_token="[PAD]", length=10**12)
    assert reader(other.to_str().encode()).encode(["a1"]).x.shape == (1, LENGTH)


def test_options_are_completed_by_the_tokenizer() -> None:
    made = reader()
    assert (made.options.vocabulary, made.options.pad) == (texts.VOCABULARY, 0)
    facts = inputs.facts(
        inputs.Kind("text", inputs.get("text").input, made.options), (LENGTH,), "int32"
    )
    assert facts["parameters"] == {"vocabulary": texts.VOCABULARY, "length": LENGTH}
    assert facts["scale"] is None
    assert reader(vocabulary=texts.VOCABULARY).options == made.options


def without_an_end() -> bytes:
    """A tokenizer whose post_processor adds [CLS] and does not say what that is."""
    found = json.loads(texts.tokenizer())
    del found["post_processor"]["special_tokens"]["[CLS]"]
    return json.dumps(found).encode()


def numbered(place: str, id: int) -> bytes:
    """A tokenizer with an id of its own for the word w0, or for the [CLS] that it adds."""
    found = json.loads(texts.tokenizer())
    if place == "word":
        found["model"]["vocab"]["w0"] = id
    else:
        found["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [id]
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"{", {}, "cannot be read"),
        (b'{"model": {"vocab": {"a": 0}}}', {}, "cannot be read"),
        ("\udcff".encode("utf-8", "surrogateescape"), {}, "cannot be read"),
        (texts.tokenizer(pad="<nothing>"), {}, "no padding token"),
        (texts.tokenizer(), {"max_length": 2}, "raise max_length"),
        (texts.tokenizer(), {"vocabulary": 7}, "does not fit: its vocabulary is"),
        (texts.tokenizer(), {"tokenizer": "0" * 64}, "digest differs"),
        (numbered("word", 10_000_000), {}, "ids above 9,999,999"),
        (numbered("word", 4_000_000_000), {}, "ids above 9,999,999"),
        (numbered("end", texts.VOCABULARY), {}, "adds an id to each text"),
        (numbered("end", 4_000_000_000), {}, "adds an id to each text"),
        (without_an_end(), {}, "adds an id to each text"),
    ],
    ids=[
        *("json", "model", "bytes", "padding", "length", "vocabulary", "digest"),
        *("many", "beyond", "added", "added-beyond", "added-nothing"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_one_error(
    content: bytes, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadFile, match=words):
        reader(content, **options)


def test_a_batch_is_cut_to_its_longest_row() -> None:
    made = reader()
    kind = inputs.get("text").input
    x = torch.from_numpy(made.encode(["a1", "a1 a2"]).x)
    ids, mask = kind.collate(x, made.options)
    assert ids.tolist() == x[:, :4].tolist()
    assert ids.dtype == torch.int64
    assert mask.tolist() == [[True, True, True, False], [True] * 4]


def test_a_row_of_padding_alone_is_refused() -> None:
    made = reader()
    x = made.encode(["a1", "a2"]).x
    x[1] = 0
    with pytest.raises(BadRow) as bad:
        inputs.get("text").input.check(x, made.options)
    assert bad.value.row == 1
