"""Texts as the token ids of a tokenizer.json, padded to one length."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import StringConstraints

from unlearning.inputs._contract import BadFile, BadRow, Encoded, Input, first

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

_MOST_IDS = 10_000_000

#: Names that padding has in common tokenizers that do not say which token is theirs.
_PADS = ("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>")
#: Names of the token for what a vocabulary does not have, where the model does not say it.
_UNKNOWN = ("[UNK]", "<unk>", "<UNK>")


@dataclass(frozen=True)
class Options:
    """The tokenizer by its digest, and the length of a row; the tokenizer decides the rest."""

    #: SHA-256 of the tokenizer.json: GET /v1/tokenizers lists those there are.
    tokenizer: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    #: Number of tokens of a row, with those that the tokenizer adds at the ends; longer texts are
    #: truncated.
    max_length: Annotated[int, Ge(2), Le(4096)] = 128
    #: Number of token ids; left out: as the tokenizer has them.
    vocabulary: Annotated[int, Ge(2), Le(_MOST_IDS)] | None = None
    #: The id that fills a row up; left out: as the tokenizer has it.
    pad: Annotated[int, Ge(0), Le(_MOST_IDS - 1)] | None = None


class Text(Input[Options]):
    """A network is called with ids (n, length) int64 and the mask of those that are not padding."""

    options = Options
    axes = ("length",)
    dtypes = ("int32",)
    decides = ("vocabulary", "length")
    files = {"tokenizer": "tokenizers"}  # noqa: RUF012 - constant

    def parameters(self, shape: Sequence[int], options: Options) -> dict[str, int]:
        """Return the number of token ids, and of tokens of a row."""
        assert options.vocabulary is not None
        return {"vocabulary": options.vocabulary, "length": shape[0]}

    def text_reader(self, options: Options, files: Mapping[str, bytes]) -> Reader:
        """Return the tokenizer with padding and truncation to ``options.max_length``."""
        return Reader(options, files["tokenizer"])

    def check(self, rows: NDArray[Any], options: Options) -> None:
        """Refuse a row without a token: nothing of it would reach a network."""
        if place := first((rows == options.pad).all(1)):
            raise BadRow("the text has no tokens; fill it in or drop the row", row=place[0])

    def collate(self, x: Tensor, options: Options) -> tuple[Tensor, ...]:
        """Return ids and mask, cut to the longest row of the batch."""
        assert options.pad is not None  # the tokenizer has said it
        mask = x.ne(options.pad)
        length = _longest(mask)
        return x[:, :length].long(), mask[:, :length]


class Reader:
    """See ``TextReader``; raises ``BadFile`` for a tokenizer that cannot be used."""

    def __init__(self, options: Options, content: bytes) -> None:
        self._tokenizer = opened(content)
        if hashlib.sha256(content).hexdigest() != options.tokenizer:
            raise BadFile("the stored tokenizer is damaged: its digest differs; add it again")
        vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        if vocabulary > _MOST_IDS:
            raise BadFile(f"the tokenizer has ids above {_MOST_IDS - 1:,}; number its tokens anew")
        pad, self._unknown = _pad(self._tokenizer), _unknown(self._tokenizer)
        for name, found in (("vocabulary", vocabulary), ("pad", pad)):
            stated = getattr(options, name)
            if stated is not None and stated != found:
                raise BadFile(
                    f"the tokenizer does not fit: its {name} is {found}, and the source states "
                    f"{stated}; leave that option out, or bring the tokenizer that it is of"
                )
        self.options = dataclasses.replace(options, vocabulary=vocabulary, pad=pad)
        _set_length(self._tokenizer, options.max_length)
        _check_ends(self._tokenizer, vocabulary)
        self._pad = pad

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the rows of ``texts``: (k, max_length) int32."""
        x = np.full((len(texts), self.options.max_length), self._pad, np.int32)
        truncated, empty = np.zeros(len(texts), np.bool_), np.zeros(len(texts), np.bool_)
        tokens = unknown = 0
        for row, found in enumerate(self._tokenizer.encode_batch(list(texts))):
            x[row, : len(found.ids)] = found.ids
            own = np.array(found.special_tokens_mask) == 0
            truncated[row], empty[row] = bool(found.overflowing), not own.any()
            tokens += int(own.sum())
            if self._unknown is not None:
                unknown += int((np.array(found.ids)[own] == self._unknown).sum())
        return Encoded(x, truncated, empty, tokens, unknown)


def opened(content: bytes) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; raise ``BadFile`` if it is damaged."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content.decode())
        if not tokenizer.get_vocab(with_added_tokens=True):
            raise BadFile("the tokenizer has an empty vocabulary; train it, and save it again")
    except BadFile:
        raise
    except Exception:  # the library raises Exception itself, and its message quotes the file
        raise BadFile(
            "the tokenizer cannot be read: it must be a tokenizer.json as the tokenizers library "
            "saves it (Tokenizer.save, or save_pretrained of a fast tokenizer)"
        ) from None
    return tokenizer


def _pad(tokenizer: Tokenizer) -> int:
    """Return the id of padding."""
    stated = tokenizer.padding
    if stated is not None and tokenizer.id_to_token(stated["pad_id"]) is not None:
        return int(stated["pad_id"])
    for name in _PADS:
        if (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    raise BadFile(
        "the tokenizer has no padding token; add one (add_special_tokens(['[PAD]'])), and save it "
        "again"
    )


def _unknown(tokenizer: Tokenizer) -> int | None:
    """Return the id of what the vocabulary does not have; None: it has every text."""
    names = [getattr(tokenizer.model, "unk_token", None), *_UNKNOWN]
    found = (tokenizer.token_to_id(name) for name in names if isinstance(name, str))
    return next((one for one in found if one is not None), None)


def _check_ends(tokenizer: Tokenizer, vocabulary: int) -> None:
    """Refuse ids that the tokenizer adds to each text and has not: a network has no row of them."""
    try:
        added = tokenizer.encode("").ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # the library panics, and a panic is no Exception
        added = [vocabulary]
    if max(added, default=0) >= vocabulary:
        raise BadFile(
            "the tokenizer adds an id to each text that its vocabulary does not have; correct the "
            "special tokens of its post_processor"
        )


def _set_length(tokenizer: Tokenizer, length: int) -> None:
    if tokenizer.num_special_tokens_to_add(False) >= length:
        raise BadFile(
            f"max_length is {length}, and the tokenizer itself adds "
            f"{tokenizer.num_special_tokens_to_add(False)} tokens to each text; raise max_length"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)


def _longest(mask: Tensor) -> int:
    """Return the length of the longest row of ``mask`` (n, length), at least 1."""
    try:
        used = int(mask.any(0).nonzero().max()) if mask.numel() else 0
    except RuntimeError:  # under vmap the length may not follow from the values
        return int(mask.shape[1])
    return used + 1


INPUT = Text()
