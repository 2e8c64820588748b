"""The base of every error that a client may see.

Subclasses live beside the code that raises them; ``service.api.problems`` turns each into
``application/problem+json``. A message says what to do next and never holds a subject's identity.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ServiceError(Exception):
    """An error with an HTTP status, a stable code and a title."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong here"

    def __init__(
        self, detail: str, *, retry_after_seconds: int | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.extra = extra


class NotFound(ServiceError):
    """The resource named in the URL or body does not exist."""

    status = 404
    code = "not-found"
    title = "There is no such thing"


class Conflict(ServiceError):
    """The resource exists but its state does not allow this now."""

    status = 409
    code = "conflict"
    title = "This is not possible in the present state"


class Withdrawn(ServiceError):
    """The resource was withdrawn by an operator and is not served any more."""

    status = 410
    code = "withdrawn"
    title = "It was withdrawn"


class Unprocessable(ServiceError):
    """The body was read but its content is invalid."""

    status = 422
    code = "unprocessable"
    title = "The request does not make sense"


class TooLarge(ServiceError):
    """A body, an upload or a list exceeds its limit."""

    status = 413
    code = "too-large"
    title = "Too large"


class UnsupportedMediaType(ServiceError):
    """This endpoint does not read bodies of this content type."""

    status = 415
    code = "unsupported-media-type"
    title = "This content type is not read here"


class Unauthorized(ServiceError):
    """There is no API key, or it is unknown, expired or revoked."""

    status = 401
    code = "unauthorized"
    title = "A valid API key is needed"


class Forbidden(ServiceError):
    """The API key is valid but lacks the scope."""

    status = 403
    code = "forbidden"
    title = "This API key may not do this"


class TooManyRequests(ServiceError):
    """A rate or a queue is at its limit."""

    status = 429
    code = "too-many-requests"
    title = "Too many requests"


class Unavailable(ServiceError):
    """A part that the request needs does not answer now."""

    status = 503
    code = "unavailable"
    title = "Not available now"


class Busy(Unavailable):
    """Others held a lock for longer than the request may wait."""

    code = "busy"
    title = "Others are changing the same at this moment"


class StorageFull(Unavailable):
    """The disk of the database is full."""

    code = "storage-full"
    title = "The storage is full"


class StorageReadOnly(Unavailable):
    """The database accepts no writes."""

    code = "storage-read-only"
    title = "The storage can only be read"


class StorageFaulty(Unavailable):
    """The disk of the database reports errors."""

    code = "storage-faulty"
    title = "The storage answers with errors"
