"""A typed client of the service, sync and async.

It needs ``httpx`` and ``pydantic`` and nothing else of this repository. Its imports are relative,
so that it can be installed by itself, as ``unlearn_client`` (``pyproject.toml`` beside this file).
"""

from . import shapes
from .asynchronous import AsyncClient
from .calls import UNSET
from .checkpoints import Downloaded
from .errors import (
    ApiError,
    BadRequest,
    ClientError,
    Conflict,
    DigestMismatch,
    EndedOtherwise,
    Forbidden,
    InternalError,
    Invalid,
    NotFound,
    NothingLive,
    StillOpen,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    Withdrawn,
)
from .retries import Retries
from .synchronous import Client
from .version import __version__

__all__ = [
    "UNSET",
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Client",
    "ClientError",
    "Conflict",
    "DigestMismatch",
    "Downloaded",
    "EndedOtherwise",
    "Forbidden",
    "InternalError",
    "Invalid",
    "NotFound",
    "NothingLive",
    "Retries",
    "StillOpen",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "Withdrawn",
    "__version__",
    "shapes",
]
