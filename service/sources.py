"""Server-side data sources: a client names a file under the data root, or objects of a bucket.

Buckets, and folders in them, are named by the settings; a client can name nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from service.errors import Unprocessable

SCHEME = "s3://"
#: Of a part of an object's name: it becomes the name of a file.
_PART = re.compile(r"[^/\\\0]{1,255}")


class OutsideDataRoot(Unprocessable):
    """The path leads, or could lead, out of the data root, or to a bucket that is not allowed."""

    code = "outside-data-root"


def check(root: Path, buckets: Sequence[str], path: str) -> None:
    """Raise ``OutsideDataRoot`` unless sources may be read from this path.

    Whether there is something is checked by the reader: this process may not have it mounted.
    """
    if is_in_bucket(path):
        require_allowed(buckets, path)
    else:
        locate(root, path)


def locate(root: Path, path: str) -> Path:
    """Return the file at ``path``, relative to the data root; refuse links out of it."""
    parts = PurePosixPath(path).parts
    if "\0" in path or "\\" in path or path.startswith("/") or ".." in parts or not parts:
        raise _refused()
    home = root.resolve()
    try:
        found = (home / path).resolve()
    except (OSError, RuntimeError) as error:  # a cycle of links, a name that is too long
        raise _refused() from error
    if home not in found.parents:
        raise _refused()
    return found


def is_in_bucket(path: str) -> bool:
    """Return whether the path names objects of a bucket."""
    return path.startswith(SCHEME)


def require_allowed(buckets: Sequence[str], path: str) -> None:
    """Raise ``OutsideDataRoot`` unless one of ``buckets`` (``s3://bucket/folder``) has the path."""
    inside = any(path.startswith(f"{one}/") for one in buckets)
    if not inside or not all(map(is_a_name, path.removeprefix(SCHEME).split("/"))):
        raise OutsideDataRoot(
            "source.path must name an object, or a folder of objects, in a bucket that "
            "UNLEARN_SOURCE_BUCKETS allows (s3://bucket/folder/file), without '..'",
            field="source.path",
        )


def is_a_name(part: str) -> bool:
    """Return whether a part of an object's name can be the name of a file."""
    return part not in (".", "..") and _PART.fullmatch(part) is not None


def _refused() -> OutsideDataRoot:
    return OutsideDataRoot(
        "source.path must name a file under the configured data root, relative to it and "
        "without '..'; links that lead out of it are not followed",
        field="source.path",
    )
