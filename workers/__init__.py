"""Worker processes: claim work from the ledger, compute in child processes, record results."""

from importlib import metadata


def code_version() -> str:
    """Return the version of the installed package, as audit reports give it."""
    return metadata.version("unlearn")
