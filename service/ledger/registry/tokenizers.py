"""Tokenizers: files in the store that datasets of texts are read with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFound, Unavailable, Unprocessable
from service.ledger.audit import chain
from service.ledger.database import file_locks
from service.ledger.database.tables import Tokenizer
from service.ledger.registry import file_uses, tokenizer_form
from service.ledger.registry.tokenizer_form import Form

#: Largest tokenizer.json; those of large multilingual vocabularies have some 20 MB.
LARGEST_BYTES = 64 << 20
#: Kind of the files in the store.
KIND: Final = "tokenizers"

_NONE = (
    "is no tokenizer.json: send the file that the tokenizers library saves (Tokenizer.save, or "
    "save_pretrained of a fast tokenizer)"
)


def check(content: bytes) -> None:
    """Raise ``Unprocessable`` unless the bytes have the form of a tokenizer.json.

    Whether the tokenizers library can use it is found where a source is read with it.
    """
    form = tokenizer_form.of(content)
    if form == Form.NOT_JSON:
        raise Unprocessable(f"the file {_NONE}")
    if form == Form.NO_VOCABULARY:
        raise Unprocessable(f"the file has no model with a vocabulary, so it {_NONE}")


def register(
    session: Session,
    digest: str,
    *,
    size_bytes: int,
    is_stored: Callable[[], bool],
    actor: str,
    now: datetime,
) -> Tokenizer:
    """Record a tokenizer that is in the store, or return the one of this digest.

    ``is_stored`` is asked under the file's lock, because the file may just be swept; raise
    ``Unavailable`` if it is gone.
    """
    file_locks.hold(session, [digest])
    if (known := session.get(Tokenizer, digest)) is not None:
        return known
    if not is_stored():
        raise Unavailable("the tokenizer was just being removed from the store; send it again")
    made = Tokenizer(digest=digest, size_bytes=size_bytes, created_by=actor, created_at=now)
    session.add(made)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.TOKENIZER_ADDED,
        subject=f"tokenizer:{digest}",
        data={"size_bytes": size_bytes},
    )
    return made


def remove(session: Session, digest: str, *, actor: str) -> None:
    """Remove a tokenizer, whose file is then unused.

    Raise ``NotFound`` if there is none, and ``Conflict`` while a dataset or an encoder uses it.
    """
    file_locks.hold(session, [digest])
    found = get(session, digest)
    file_uses.require_no_dataset(session, "tokenizer", digest)
    file_uses.require_no_encoder(session, digest)
    session.delete(found)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.TOKENIZER_REMOVED,
        subject=f"tokenizer:{digest}",
        data={},
    )


def get(session: Session, digest: str) -> Tokenizer:
    """Return the tokenizer of this digest; raise ``NotFound`` if there is none."""
    found = session.get(Tokenizer, digest)
    if found is None:
        raise NotFound("there is no tokenizer of this digest; send it to POST /v1/tokenizers")
    return found


def page(session: Session, *, after: str | None, limit: int) -> Sequence[Tokenizer]:
    """Return tokenizers by digest, those after the digest ``after``."""
    wanted = select(Tokenizer)
    if after is not None:
        wanted = wanted.where(Tokenizer.digest > after)
    return session.scalars(wanted.order_by(Tokenizer.digest).limit(limit)).all()


def require(session: Session, digest: str, *, field: str) -> None:
    """Raise ``Unprocessable``, with the ``field`` of the client's body, if there is none.

    It stays until the transaction has ended.
    """
    file_locks.hold(session, [digest])
    if session.get(Tokenizer, digest) is None:
        raise Unprocessable(
            f"{field} names no tokenizer that is stored here; send its tokenizer.json to "
            "POST /v1/tokenizers, and give the digest that it answers",
            field=field,
        )
