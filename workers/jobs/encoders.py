"""Encoders: the files of a directory are checked, stored under their digests, and recorded."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models_store import errors, safetensors_check
from models_store.protocols import Blobs
from service.errors import ServiceError
from service.ledger.batches import leases
from service.ledger.database import file_locks
from service.ledger.database.states import EncoderStatus
from service.ledger.database.tables import Encoder
from service.ledger.destruction import stored_files
from service.ledger.registry import encoders, tokenizers
from service.messages import encoder as messages
from service.messages.failures import text_of
from workers.compute import process
from workers.compute.process import ComputeDied, ComputeFailed, Stopping
from workers.jobs import contents, ingest, purge
from workers.readers import ReadError, pickles
from workers.runtime import Runtime

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: What prepares the input of an encoder: of texts, and of images.
TOKENIZER, PREPROCESSOR = "tokenizer.json", "preprocessor_config.json"

_LARGEST_CONFIG_BYTES = 1 << 20
#: Types of weights that are read; a buffer may be of whole numbers.
_READ = frozenset(("F64", "F32", "F16", "I64", "I32", "U8", "BOOL"))


def run_due(runtime: Runtime) -> bool:
    """Check every waiting encoder; True when there were any."""
    with runtime.session() as session:
        waiting = [one.name for one in encoders.waiting(session)]
    done = False
    for name in waiting:
        if runtime.resting(lease_key(name)):
            continue
        with runtime.lease(lease_key(name)) as held:
            if held is not None and not runtime.stop.is_set():
                done = True
                check(runtime, name, None, held=held)
    return done


def lease_key(name: str) -> str:
    """Return the lease under which an encoder is checked."""
    return f"encoder:{name}"


def check(runtime: Runtime, name: str, folder: Path | None, *, held: leases.Held) -> str | None:
    """Check one encoder under its lease; return why it was refused, or None when it is ready.

    ``folder`` is read, or without it what the encoder's source names; then links that lead out of
    it are refused.
    """
    with runtime.session() as session:
        encoder = encoders.get(session, name)
        if encoder.status != EncoderStatus.CHECKING:
            return "it is not waiting any more"
        source = encoder.source
    watch = ingest.Watch(runtime, held)
    stored: list[tuple[stored_files.Kind, str]] = []
    try:
        with ingest.at_hand(runtime, folder, source, watch=watch) as here:
            files = _opened(here, inside=folder is None)
            found = _stored(runtime, files, stored, held)
        _record(runtime, name, found, held)
        return None
    except (leases.LeaseLost, Stopping):
        return "stopped; the encoder is still waiting"
    except errors.BucketUnavailable as error:
        raise runtime.store_away(str(error)) from error
    except (ComputeFailed, ComputeDied) as failed:
        reason = failed.detail
        # What is on this machine alone is read by nobody else: whoever brings it tries again.
        if folder is None and process.may_pass(failed) and _tries_again(runtime, name, held):
            log.warning("an encoder was not checked: %s", reason)
            return reason
    except (ReadError, OSError, errors.StoreError, ServiceError) as error:
        reason = text_of(error)
    for kind, digest in stored:  # nothing refers to them, unless they are another encoder's too
        purge.destroy_orphan(runtime, kind, digest)
    with runtime.session() as session:
        leases.hold(session, held)
        encoders.fail(session, encoders.get(session, name), error=reason, actor=runtime.actor)
    return reason


def _tries_again(runtime: Runtime, name: str, held: leases.Held) -> bool:
    """Count an attempt; return whether another follows, after a while."""
    with runtime.session() as session:
        leases.hold(session, held)
        again = encoders.count_attempt(session, encoders.get(session, name))
    if again:
        runtime.rest(lease_key(name))
    return again


@dataclass(frozen=True)
class _Files:
    """The files of an encoder, looked at but not stored."""

    config: Mapping[str, Any]
    weights: Path
    tokenizer: bytes | None
    preprocessor: Mapping[str, Any] | None


def _opened(folder: Path, *, inside: bool) -> _Files:
    """Return the three files; raise ``ReadError`` for one that is missing or is not of its kind."""
    if not folder.is_dir():
        raise ReadError("there is no such directory; name the one that holds config.json")
    images = (folder / PREPROCESSOR).is_file() and not (folder / TOKENIZER).is_file()
    for name in (CONFIG, WEIGHTS, PREPROCESSOR if images else TOKENIZER):
        file = folder / name
        if not file.is_file():
            raise ReadError(_missing(folder, name))
        if inside and not file.resolve().is_relative_to(folder.resolve()):
            raise ReadError(
                f"the file {name} is a link out of the directory; put the file itself there"
            )
    _check_weights(folder / WEIGHTS)
    config = _config(folder / CONFIG)
    if images:
        return _Files(config, folder / WEIGHTS, None, _config(folder / PREPROCESSOR))
    return _Files(config, folder / WEIGHTS, _tokenizer(folder / TOKENIZER), None)


def _tokenizer(file: Path) -> bytes:
    if file.stat().st_size > tokenizers.LARGEST_BYTES:
        raise ReadError(f"the file {TOKENIZER} has more than {tokenizers.LARGEST_BYTES} bytes")
    content = file.read_bytes()
    tokenizers.check(content)
    return content


def _missing(folder: Path, name: str) -> str:
    if name == WEIGHTS and any(pickles.is_one(one) for one in folder.iterdir() if one.is_file()):
        return (
            "the weights are pickled, and reading a pickle runs code from it; load the encoder "
            "where you trust it, save it with save_pretrained(..., safe_serialization=True), and "
            "bring that directory"
        )
    return (
        f"the directory has no {name}; it must hold {CONFIG}, {WEIGHTS} and {TOKENIZER} (of an "
        f"encoder of images: {PREPROCESSOR}), as save_pretrained of an encoder and of its fast "
        "tokenizer or image processor writes them"
    )


def _config(file: Path) -> dict[str, Any]:
    found = None
    if file.stat().st_size <= _LARGEST_CONFIG_BYTES:
        try:
            found = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise ReadError(f"the file {file.name} is not a JSON object; save the encoder again")
    return found


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def _check_weights(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            entries, _ = safetensors_check.read_header(stream, file.stat().st_size)
    except errors.NotSafetensors:
        raise ReadError(
            f"the file {WEIGHTS} is damaged, or is none: its header does not describe the file; "
            "copy it again from where it came from"
        ) from None
    if others := sorted({one.dtype for one in entries.values()} - _READ):
        raise ReadError(
            f"the file {WEIGHTS} has numbers of the type {', '.join(others)}; save it in float32 "
            "(model.float().save_pretrained)"
        )


def _stored(
    runtime: Runtime, files: _Files, stored: list[tuple[stored_files.Kind, str]], held: leases.Held
) -> encoders.Checked:
    """Store the files, add what was stored to ``stored``, and have the encoder built of them."""
    blobs: Blobs = runtime.store.blobs
    weights = blobs.put(encoders.KIND, contents.File(files.weights), {"file": WEIGHTS}).digest
    stored.append((encoders.KIND, weights))
    tokenizer = None
    described: dict[str, Any] = {"config": files.config, "weights": weights}
    if files.tokenizer is not None:
        content = contents.Bytes(files.tokenizer)
        tokenizer = blobs.put(tokenizers.KIND, content, {"file": TOKENIZER}).digest
        stored.append((tokenizers.KIND, tokenizer))
        described["tokenizer"] = tokenizer
    else:
        described["preprocessor"] = files.preprocessor
    digest = _described(blobs, described)
    stored.append((encoders.KIND, digest))
    answer = runtime.ask(
        messages.ENCODER,
        messages.Request(store=runtime.store.ticket(), digest=digest),
        held=held,
        timeout_seconds=runtime.settings.batch_timeout_seconds,
    )
    facts = asdict(answer)
    takes = facts.pop("texts") or {}, facts.pop("images") or {}
    for known in takes:
        facts |= known
    size = files.weights.stat().st_size
    return encoders.Checked(digest, weights, tokenizer, facts | {"size_bytes": size})


def _described(blobs: Blobs, described: Mapping[str, Any]) -> str:
    """Store the description of an encoder, which names its other files; return its digest."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blobs.put(encoders.KIND, contents.Bytes(text.encode()), {"file": CONFIG}).digest


def _record(runtime: Runtime, name: str, found: encoders.Checked, held: leases.Held) -> None:
    blobs = runtime.store.blobs
    files: list[tuple[stored_files.Kind, str]] = [
        (encoders.KIND, found.digest),
        (encoders.KIND, found.weights),
    ]
    if found.tokenizer is not None:
        files.append((tokenizers.KIND, found.tokenizer))
    with runtime.session() as session:
        leases.hold(session, held)
        file_locks.hold(session, [digest for _, digest in files])
        if not all(blobs.exists(kind, digest) for kind, digest in files):
            raise ReadError("the files were just being removed from the store; add it again")
        if found.tokenizer is not None:
            tokenizers.register(
                session,
                found.tokenizer,
                size_bytes=blobs.size(tokenizers.KIND, found.tokenizer),
                is_stored=lambda: True,
                actor=runtime.actor,
                now=runtime.now(),
            )
        encoder: Encoder = encoders.get(session, name)
        encoders.complete(session, encoder, found, actor=runtime.actor, now=runtime.now())
