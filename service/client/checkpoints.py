"""Download checkpoints: whole, checked, and only when they have changed.

A file is replaced at once or not at all. What was received before a connection was lost is kept,
and the rest is asked for. The service's ``ETag`` is the sha256 of the file, so the file that is
there says by itself whether it is the one asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from . import errors, shapes
from .calls import Call
from .flows import FILE, Flow, Work, attempts, call
from .retries import Retries

_SHA256 = re.compile(r'"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Downloaded:
    """A checkpoint on this machine."""

    model: str
    version: int
    path: Path
    #: sha256 of the file.
    digest: str
    #: Whether the file was replaced; False: it was there already.
    changed: bool


def production(model: str, target: Path, retries: Retries) -> Flow[Downloaded]:
    """Download the live version; raise ``NothingLive`` if the model has none.

    If the version that is live is taken out of service meanwhile, the next one is downloaded.
    """
    refused: errors.ApiError | None = None
    tried: int | None = None
    while True:
        alias = yield from call(
            Call[shapes.AliasView](
                "GET",
                "/v1/models/{model}/aliases/production",
                shapes.AliasView,
                {"model": model},
                query={"limit": 1},
            ),
            retries,
        )
        if alias.version is None:
            raise errors.NothingLive(
                f"nothing is live of model {model}; stop serving a copy of an earlier version"
            )
        if refused is not None and alias.version == tried:
            raise refused
        try:
            return (yield from version(model, alias.version, target, retries))
        except (errors.Withdrawn, errors.Conflict) as error:
            refused, tried = error, alias.version


def version(model: str, number: int, target: Path, retries: Retries) -> Flow[Downloaded]:
    """Download a version to ``target``, unless it is there; raise ``Withdrawn`` if it must not be.

    Raise ``DigestMismatch`` if other bytes came than the service names.
    """
    present = yield Work(lambda: _digest_of(target))
    what: Call[None] = Call(
        "GET",
        "/v1/models/{model}/versions/{number}/checkpoint",
        None,
        {"model": model, "number": number},
    )
    part = _Part(target)
    try:
        response = yield from attempts(
            what, retries, headers=lambda: _headers(part, present), sink=part
        )
        if response.status_code == 304 and present is not None:
            return Downloaded(model, number, target, present, changed=False)
        if response.status_code not in FILE:
            raise errors.UnexpectedAnswer(
                f"the service answered {response.status_code} and no file came; look at what lies "
                "between this program and the service"
            )
        digest = yield Work(part.finish)
        return Downloaded(model, number, target, digest, changed=True)
    finally:
        part.discard()


def _headers(part: _Part, present: str | None) -> dict[str, str]:
    plain = {"Accept-Encoding": "identity"}
    rest = part.missing()
    if rest is not None:
        return {**plain, "Range": f"bytes={rest}-", "If-Range": f'"{part.expected}"'}
    return plain if present is None else {**plain, "If-None-Match": f'"{present}"'}


def _digest_of(file: Path) -> str | None:
    if not file.parent.is_dir():
        raise NotADirectoryError(f"{file.parent} is not a folder; make it first")
    if not file.exists():
        return None
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class _Part:
    """The file beside the target that becomes it once it is complete."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        self._file: BinaryIO | None = None
        self._size: int | None = None
        #: sha256 that the service names.
        self.expected = ""

    @property
    def received(self) -> int:
        """Return how many bytes are there."""
        return 0 if self._file is None or self._file.closed else self._file.tell()

    def missing(self) -> int | None:
        """Return from which byte on the file is missing; None: all of it is to be asked for."""
        got = self.received
        return got if self._size is not None and 0 < got < self._size else None

    def begin(self, response: httpx.Response) -> None:
        """Take note of the answer: 200 begins anew, 206 goes on."""
        named = _SHA256.fullmatch(response.headers.get("etag", ""))
        if named is None:
            raise errors.UnexpectedAnswer(
                "the answer does not name the file's sha256 as its ETag; look at what lies between "
                "this program and the service"
            )
        if response.status_code == 206:
            if self._file is None or named[1] != self.expected:
                raise errors.UnexpectedAnswer("a part of another file came; download it again")
            return
        if self._file is None:
            self._file = self._path.open("xb")
        self._file.seek(0)
        self._file.truncate()
        self.expected = named[1]
        length = response.headers.get("content-length", "")
        self._size = int(length) if length.isdigit() else None

    def write(self, piece: bytes) -> None:
        """Append bytes."""
        assert self._file is not None, "an answer begins before its bytes come"
        self._file.write(piece)

    def finish(self) -> str:
        """Put the complete file in the target's place and return its digest."""
        assert self._file is not None, "there is a file once an answer came"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        digest = _digest_of(self._path)
        if digest != self.expected:
            raise errors.DigestMismatch(
                "the bytes that came are not those of the checkpoint (sha256); nothing was "
                "replaced; download it again"
            )
        self._path.replace(self._target)
        return digest

    def discard(self) -> None:
        """Remove what is left of an incomplete file."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
