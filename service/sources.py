"""Server-side data sources: a client names a file, which must lie under the data root."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from service.errors import Unprocessable


class OutsideDataRoot(Unprocessable):
    """The path leads, or could lead, out of the data root."""

    code = "outside-data-root"


def locate(root: Path, path: str) -> Path:
    """Return the file at ``path``, relative to the data root; refuse links out of it.

    Whether it exists is checked by the reader: this process may not have it mounted.
    """
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


def _refused() -> OutsideDataRoot:
    return OutsideDataRoot(
        "source.path must name a file under the configured data root, relative to it and "
        "without '..'; links that lead out of it are not followed",
        field="source.path",
    )
