"""Encoders that were trained elsewhere: accepted, checked by a worker, ready or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, Unprocessable
from service.ledger.audit import chain, machines
from service.ledger.database import file_locks
from service.ledger.database.states import EncoderStatus
from service.ledger.database.tables import Dataset, Encoder
from service.ledger.registry import file_uses

#: Kind of the files in the store.
KIND: Final = "encoders"

#: Attempts to check an encoder of which the machine may be why they failed.
MOST_ATTEMPTS = 3

_LONGEST_ERROR = 2_000


@dataclass(frozen=True)
class Checked:
    """What a worker stored of an encoder, by digest, and what it found the encoder to be."""

    digest: str
    weights: str
    #: None: it is an encoder of images.
    tokenizer: str | None
    facts: Mapping[str, Any]


def create(
    session: Session,
    name: str,
    *,
    source: Mapping[str, Any],
    statement: str,
    actor: str,
    now: datetime,
) -> Encoder:
    """Accept an encoder for the check; the name of a failed one may be used again.

    ``statement`` says what it was trained on: reports repeat it.
    """
    known = session.get(Encoder, name)
    if known is None:
        made = Encoder(
            name=name, status=EncoderStatus.CHECKING, source=dict(source), statement=statement,
            created_by=actor, created_at=now,
        )  # fmt: skip
        try:
            with session.begin_nested():
                session.add(made)
                session.flush()
        except IntegrityError:  # another transaction took the name at the same moment
            raise _taken(name) from None
    else:
        if known.status != EncoderStatus.FAILED:
            raise _taken(name)
        made = known
        machines.encoders.move(made, EncoderStatus.CHECKING)
        made.source, made.statement, made.error = dict(source), statement, None
        made.created_by, made.created_at, made.attempts = actor, now, 0
        session.flush()
    _say(session, made, chain.Action.ENCODER_CREATED, actor, statement=statement)
    return made


def get_locked(session: Session, name: str) -> Encoder:
    """Return the encoder of this name, locked until the transaction ends, or raise ``NotFound``."""
    session.get(Encoder, name, with_for_update=True)
    return get(session, name)


def get(session: Session, name: str) -> Encoder:
    """Return the encoder of this name; raise ``NotFound`` if there is none."""
    found = session.get(Encoder, name)
    if found is None:
        raise NotFound("there is no encoder of this name; list them with GET /v1/encoders")
    return found


def page(session: Session, *, after: str | None, limit: int) -> Sequence[Encoder]:
    """Return encoders by name, those after the name ``after``."""
    wanted = select(Encoder)
    if after is not None:
        wanted = wanted.where(Encoder.name > after)
    return session.scalars(wanted.order_by(Encoder.name).limit(limit)).all()


def waiting(session: Session) -> Sequence[Encoder]:
    """Return the encoders that a worker has to check, oldest first."""
    return session.scalars(
        select(Encoder)
        .where(Encoder.status == EncoderStatus.CHECKING)
        .order_by(Encoder.created_at, Encoder.name)
    ).all()


def complete(
    session: Session, encoder: Encoder, found: Checked, *, actor: str, now: datetime
) -> None:
    """Make the encoder ready: its files are in the store."""
    machines.encoders.move(encoder, EncoderStatus.READY)
    encoder.digest, encoder.weights_digest = found.digest, found.weights
    encoder.tokenizer_digest, encoder.facts = found.tokenizer, dict(found.facts)
    encoder.error, encoder.ready_at = None, now
    session.flush()
    _say(session, encoder, chain.Action.ENCODER_CHECKED, actor, digest=found.digest)


def count_attempt(session: Session, encoder: Encoder) -> bool:
    """Count an attempt that failed; return whether there may be another one."""
    encoder.attempts += 1
    session.flush()
    return encoder.attempts < MOST_ATTEMPTS


def fail(session: Session, encoder: Encoder, *, error: str, actor: str) -> None:
    """Refuse the encoder's files; ``error`` says what to correct."""
    machines.encoders.move(encoder, EncoderStatus.FAILED)
    encoder.error = error.replace("\0", "")[:_LONGEST_ERROR]
    session.flush()
    _say(session, encoder, chain.Action.ENCODER_FAILED, actor)


def remove(session: Session, encoder: Encoder, *, actor: str) -> Sequence[str]:
    """Remove the encoder; return the digests of its files, which may now be unused.

    Its tokenizer stays: datasets may be read with it. Raise ``Conflict`` while a worker checks it,
    or while a model or a dataset uses the files, also under another name: reports repeat what is
    stated of them.
    """
    if encoder.status == EncoderStatus.CHECKING:
        raise Conflict(
            f"the encoder {encoder.name} is being checked; delete it once that has ended",
            retry_after_seconds=5,
        )
    digest = encoder.digest
    files = [one for one in (digest, encoder.weights_digest) if one is not None]
    if digest is not None:
        file_locks.hold(session, [digest])
        file_uses.require_no_model(session, digest)
        file_uses.require_no_dataset(session, "encoder", digest)
    session.delete(encoder)
    session.flush()
    said = {} if digest is None else {"digest": digest}
    _say(session, encoder, chain.Action.ENCODER_REMOVED, actor, **said)
    return files


def require_of_texts(session: Session, digest: str, *, field: str) -> Encoder:
    """Return the encoder of this digest; raise ``Unprocessable`` if it is none of texts."""
    found = require_ready(session, digest, field=field)
    if found.tokenizer_digest is None:
        raise Unprocessable(
            f"the encoder {found.name} takes images; choose an encoder of texts", field=field
        )
    return found


def require_ready(session: Session, digest: str, *, field: str) -> Encoder:
    """Return the encoder of this digest, which stays until the transaction has ended.

    Raise ``Unprocessable`` if none is ready.
    """
    file_locks.hold(session, [digest])
    found = of_digest(session, digest)
    if not found:
        raise Unprocessable(
            f"{field} is not the digest of an encoder that is ready; GET /v1/encoders lists them",
            field=field,
        )
    return found[0]


def require(session: Session, digest: str, *, dataset: Dataset, field: str) -> None:
    """Raise ``Unprocessable`` unless the digest is that of a ready encoder for the dataset's rows.

    Texts were read with its tokenizer.

    ``field`` is where it stands in the client's body.
    """
    found = require_ready(session, digest, field=field)
    tokenizer = (dataset.input or {}).get("options", {}).get("tokenizer")
    if found.tokenizer_digest is None and tokenizer is not None:
        raise Unprocessable(
            f"the encoder {found.name} takes images, and the rows of dataset {dataset.name} are "
            "texts; choose an encoder of texts",
            field=field,
        )
    if found.tokenizer_digest is not None and tokenizer is None:
        raise Unprocessable(
            f"the encoder {found.name} takes texts, and the rows of dataset {dataset.name} are "
            "none; choose an encoder of images",
            field=field,
        )
    if tokenizer != found.tokenizer_digest:
        raise Unprocessable(
            f"dataset {dataset.name} was not read with the tokenizer of the encoder "
            f"{found.name}; ingest the texts with input.options.tokenizer "
            f"{found.tokenizer_digest}, or choose another encoder",
            field=field,
        )


def of_digest(session: Session, digest: str) -> Sequence[Encoder]:
    """Return the encoders of this digest by age; the same files may be added under two names."""
    return session.scalars(
        select(Encoder)
        .where(Encoder.digest == digest, Encoder.status == EncoderStatus.READY)
        .order_by(Encoder.created_at, Encoder.name)
    ).all()


def _taken(name: str) -> Conflict:
    return Conflict(f"there is an encoder {name} already; use it or choose another name")


def _say(session: Session, encoder: Encoder, action: chain.Action, actor: str, **data: Any) -> None:
    chain.append(session, actor=actor, action=action, subject=f"encoder:{encoder.name}", data=data)
