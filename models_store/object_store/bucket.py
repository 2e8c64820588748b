"""The few operations on a bucket, with typed errors and a time limit on each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from models_store import errors

if TYPE_CHECKING:
    from obstore import ObjectMeta

_LOCATION = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
_CONNECT = timedelta(seconds=3)
_MAX_RETRIES = 3

#: Texts by which a refusal is recognised, as the library does not distinguish it from other errors.
_REFUSALS = ("403 Forbidden", "401 Unauthorized", "AccessDenied", "InvalidAccessKeyId")
#: An empty object, written to check the bucket.
_CHECK = "check"
_NO_BUCKET = "NoSuchBucket"
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]+)")


@dataclass(frozen=True)
class Found:
    """An object in a listing; ``name`` is relative to what was listed."""

    name: str
    size_bytes: int
    modified_at: datetime


def is_older(modified_at: datetime, seconds: float) -> bool:
    """Return whether an object was written at least that many seconds ago."""
    return (datetime.now(UTC) - modified_at).total_seconds() >= seconds


def split_location(location: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``; raise ``ValueError`` for another form."""
    found = _LOCATION.fullmatch(location)
    prefix = "" if found is None else (found["prefix"] or "").strip("/")
    if found is None or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise ValueError(f"{location!r} is not a store: write s3://bucket or s3://bucket/prefix")
    return found["bucket"], prefix


class Bucket:
    """One prefix of a bucket. Endpoint and credentials come from the environment (``AWS_...``).

    A name that does not exist gives None or an empty result; every other error is ``Unreachable``
    or ``Refused``.
    """

    def __init__(self, location: str, *, timeout_seconds: float) -> None:
        name, prefix = split_location(location)
        self._location = location
        limit = timedelta(seconds=timeout_seconds)
        with self._translated():
            self._store = S3Store(
                name,
                prefix=prefix or None,
                client_options={
                    "allow_http": True,  # the endpoint's scheme decides
                    "timeout": limit,
                    "connect_timeout": min(_CONNECT, limit),
                },
                retry_config={
                    "max_retries": _MAX_RETRIES,
                    "retry_timeout": limit,
                    "backoff": {
                        "init_backoff": timedelta(milliseconds=100),
                        "max_backoff": timedelta(seconds=2),
                        "base": 2,
                    },
                },
            )

    def create(self, name: str, content: bytes | bytearray | memoryview) -> bool:
        """Write a new object; False, unchanged, if it exists already."""
        with self._translated():
            try:
                obstore.put(
                    self._store, name, memoryview(content), mode="create", use_multipart=False
                )
            except AlreadyExistsError:
                return False
        return True

    def replace(self, name: str, content: bytes | bytearray | memoryview) -> None:
        """Write an object, whether or not it exists, to repair it or to reset its age."""
        with self._translated():
            obstore.put(
                self._store, name, memoryview(content), mode="overwrite", use_multipart=False
            )

    def read(self, name: str) -> bytes | None:
        """Return an object's bytes; None if it does not exist."""
        with self._translated():
            try:
                return bytes(obstore.get(self._store, name).bytes())
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None

    def read_range(self, name: str, start: int, size: int) -> memoryview | None:
        """Return up to ``size`` bytes of an object, fewer at its end; None if it does not exist."""
        with self._translated():
            try:
                return memoryview(obstore.get_range(self._store, name, start=start, length=size))
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None

    def modified_at(self, name: str) -> datetime | None:
        """Return when an object was written; None if it does not exist."""
        with self._translated():
            try:
                modified_at: datetime = obstore.head(self._store, name)["last_modified"]
                return modified_at
            except FileNotFoundError:
                return None

    def size_bytes(self, name: str) -> int | None:
        """Return an object's size; None if it does not exist."""
        with self._translated():
            try:
                size: int = obstore.head(self._store, name)["size"]
                return size
            except FileNotFoundError:
                return None

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that do not exist are ignored."""
        if names:
            with self._translated():
                obstore.delete(self._store, list(names))

    def list(self, under: str) -> Iterator[Found]:
        """Yield every object below a folder, in any order."""
        pages = obstore.list(self._store, under)
        while True:
            with self._translated():
                page: Sequence[ObjectMeta] | None = next(pages, None)
            if page is None:
                return
            for one in page:
                name = one["path"].removeprefix(f"{under}/")
                yield Found(name, one["size"], one["last_modified"])

    def check(self) -> None:
        """Raise ``Unreachable`` or ``Refused`` unless the bucket can be listed and written now.

        A server that ignores create-only puts is ``Refused`` as well, because it would overwrite.
        """
        with self._translated():
            obstore.list_with_delimiter(self._store, "checkpoints")
        # Written once. Later puts fail because it exists, after the server has checked permissions.
        if self.create(_CHECK, b"") and self.create(_CHECK, b""):
            raise errors.Refused(
                f"The server of {self._location} overwrites objects that were to be created only "
                "(If-None-Match). Use one that knows such puts."
            )

    def _require_bucket(self, error: FileNotFoundError) -> None:
        """Raise ``Refused`` for a missing bucket, which the library's message alone shows."""
        if _NO_BUCKET in str(error):
            raise self._no_bucket() from None

    def _no_bucket(self) -> errors.Refused:
        return errors.Refused(
            f"The bucket of {self._location} does not exist. Make it, or correct UNLEARN_STORE_URL."
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        # The library's messages are not passed on: they quote the server's answer.
        try:
            yield
        except errors.StoreError:
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._refused(error) from None
        except (BaseError, OSError) as error:
            text = str(error)
            if any(sign in text for sign in _REFUSALS):
                raise self._refused(error) from None
            if isinstance(error, FileNotFoundError) or _NO_BUCKET in text:
                raise self._no_bucket() from None
            raise errors.Unreachable(
                f"The store at {self._location} does not answer as it should "
                f"({_status(text)}). It is asked again; look at the endpoint and the network."
            ) from None

    def _refused(self, error: Exception) -> errors.Refused:
        return errors.Refused(
            f"The store at {self._location} refuses ({_status(str(error))}). Look at the "
            "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and at what "
            "they may do in the bucket."
        )


def _status(text: str) -> str:
    """Return the HTTP status in a message of the library, or that there was none."""
    found = _STATUS.search(text)
    return found[1].strip() if found else "no answer in time"
