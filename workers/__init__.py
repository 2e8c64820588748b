"""The only place where database, files and device meet."""

from importlib import metadata


def code_version() -> str:
    """Version of the installed package, as audit reports give it."""
    return metadata.version("unlearn")
