"""What ``unlearn datasets`` takes and prints of texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.cli.errors import stop


def stated(
    tokenizer: Path | None, max_length: int | None, input: str | None
) -> tuple[bytes | None, dict[str, Any] | None]:
    """Return the tokenizer's bytes and the kind of input that it makes; None without one."""
    import hashlib

    from service.errors import ServiceError
    from service.ledger.registry import tokenizers
    from unlearning import inputs
    from unlearning.errors import WrongOptions

    if tokenizer is None:
        if max_length is not None:
            raise stop("--max-length is about texts: give their tokenizer with --tokenizer")
        return None, None
    if input is not None:
        raise stop("--tokenizer says that the rows are texts; leave --input out")
    try:
        content = tokenizer.read_bytes()
        tokenizers.check(content)
    except OSError as error:
        raise stop(f"{tokenizer} cannot be read: {error.strerror}") from None
    except ServiceError as error:
        raise stop(f"{tokenizer}: {error.detail}") from None
    options: dict[str, Any] = {"tokenizer": hashlib.sha256(content).hexdigest()}
    if max_length is not None:
        options["max_length"] = max_length
    try:
        kind = inputs.kind("text", options)
        kind.input.text_reader(kind.options, {"tokenizer": content})
    except (WrongOptions, inputs.BadFile) as error:
        raise stop(f"{tokenizer}: {error}") from None
    return content, {"name": kind.name, "options": options}


def tokens(found: Mapping[str, Any]) -> list[str]:
    """Return what became of texts: their tokenizer, and the shares that were cut or unknown."""
    options, notes = found["input"]["options"], found["notes"]
    if not notes.get("tokens"):
        return []
    made = f"features of the encoder {options['encoder']}" if "encoder" in options else "token ids"
    return [
        f"{made}, of at most {options['max_length']} tokens; tokenizer {options['tokenizer']}",
        f"{notes['texts_truncated'] / found['rows']:.1%} of the texts are truncated; "
        f"{notes['tokens_unknown'] / notes['tokens']:.1%} of their tokens are unknown",
    ]
