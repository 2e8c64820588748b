"""Dependencies of endpoints. An endpoint commits itself, then wakes workers, then answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from fastapi import Depends, Path, Request
from sqlalchemy.orm import Session as DatabaseSession
from starlette.convertors import Convertor, register_url_convertor

from models_store import Store as OpenStore
from service import wake
from service.api import negotiation
from service.ledger.audit import model_signing, signing
from service.ledger.database import db
from service.ledger.selection.digests import Digester
from service.settings import Settings as AllSettings


class _Segment(Convertor[str]):
    """A path parameter that stops before ``:verb``, so that paths with a verb match first."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("segment", _Segment())

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"

#: A dataset's or model's name in a path.
Name = Annotated[str, Path(pattern=NAME_PATTERN, description="lower-case name", examples=["faces"])]
#: A version's number in a path.
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="number of the version")]


def _session(request: Request) -> Iterator[DatabaseSession]:
    # Closing rolls back what the endpoint did not commit.
    with request.app.state.sessions() as session:
        yield session


def _reader(request: Request) -> Iterator[DatabaseSession]:
    with request.app.state.sessions() as session:
        yield db.read_only(session)


async def _settings(request: Request) -> AllSettings:
    settings: AllSettings = request.app.state.settings
    return settings


async def _wake(request: Request) -> wake.Wake:
    sender: wake.Wake = request.app.state.wake
    return sender


async def _digester(request: Request) -> Digester:
    digester: Digester = request.app.state.digester
    return digester


async def _store(request: Request) -> OpenStore:
    store: OpenStore = request.app.state.store
    return store


async def _signer(request: Request) -> signing.Signer:
    signer: signing.Signer = request.app.state.signer
    return signer


async def _model_signer(request: Request) -> model_signing.ModelSigner:
    signer: model_signing.ModelSigner = request.app.state.model_signer
    return signer


async def _model_signing_keys(request: Request) -> Mapping[str, bytes]:
    keys: Mapping[str, bytes] = request.app.state.model_signing_keys
    return keys


async def _pages(request: Request) -> negotiation.Pages:
    pages: negotiation.Pages = request.app.state.pages
    return pages


#: A session that may write; nothing is kept without a commit.
Session = Annotated[DatabaseSession, Depends(_session)]
#: A session that only reads (on SQLite it takes no write lock).
Reader = Annotated[DatabaseSession, Depends(_reader)]
Settings = Annotated[AllSettings, Depends(_settings)]
Wake = Annotated[wake.Wake, Depends(_wake)]
Digests = Annotated[Digester, Depends(_digester)]
Store = Annotated[OpenStore, Depends(_store)]
Signer = Annotated[signing.Signer, Depends(_signer)]
ModelSigner = Annotated[model_signing.ModelSigner, Depends(_model_signer)]
#: Public keys for weights, as PEM by their ids.
ModelSigningKeys = Annotated[Mapping[str, bytes], Depends(_model_signing_keys)]
Pages = Annotated[negotiation.Pages, Depends(_pages)]
