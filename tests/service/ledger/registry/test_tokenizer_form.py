"""A tokenizer.json is looked at with bounded memory and time, in a process of its own."""

from __future__ import annotations

import resource

import pytest

from service.errors import Unprocessable
from service.ledger.registry import tokenizer_form, tokenizers
from service.ledger.registry.tokenizer_form import Form
from tests import texts


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (texts.tokenizer(), Form.TOKENIZER),
        (b"", Form.NOT_JSON),
        (b"\xff\xfe", Form.NOT_JSON),
        (b"{", Form.NOT_JSON),
        (b"[" * 100_000, Form.NOT_JSON),
        (b"[1]", Form.NO_VOCABULARY),
        (b'{"model": {"vocab": {}}}', Form.NO_VOCABULARY),
    ],
    ids=lambda one: one.name if isinstance(one, Form) else "",
)
def test_form_is_that_of_the_bytes_in_a_process_as_in_this_one(content: bytes, form: Form) -> None:
    assert tokenizer_form.of(content) == form
    assert tokenizer_form.look(content) == form


def test_json_that_takes_dozens_of_times_its_bytes_is_refused() -> None:
    # Parsed, each "{}," of three bytes is an object of 64.
    content = b'{"model": {"vocab": [' + b"{}," * (tokenizers.LARGEST_BYTES // 3 - 20) + b"{}]}}"
    assert len(content) <= tokenizers.LARGEST_BYTES
    # A forked process begins with the pages of its parent, and counts them until it runs ours.
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(Unprocessable, match=r"is no tokenizer\.json"):
        tokenizers.check(content)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak <= max(before, ours, tokenizer_form.MEMORY_BYTES // 1024)
