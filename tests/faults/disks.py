"""Small disks that can really be full: tmpfs, which only root may mount."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_PIECE = 64 * 1024


class NotAllowed(Exception):
    """Nothing may be mounted here."""


class Disk:
    """A file system of a few megabytes at ``path``, in memory."""

    def __init__(self, path: Path, *, megabytes: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._ballast = path / "ballast"
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise NotAllowed("mount is not installed") from None
        except subprocess.CalledProcessError as refused:
            raise NotAllowed(refused.stderr.strip()) from None

    def fill(self) -> None:
        """Take every byte that is free; again for what was freed since."""
        with self._ballast.open("ab", buffering=0) as stream:
            size = _PIECE
            while size:
                try:
                    stream.write(bytes(size))
                except OSError as full:
                    if full.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        """Give back what ``fill`` took."""
        with suppress(FileNotFoundError):
            self._ballast.unlink()


def refusal() -> str | None:
    """Why no disk can be mounted here; None when one can."""
    with tempfile.TemporaryDirectory() as trial:
        try:
            Disk(Path(trial), megabytes=1)
        except NotAllowed as refused:
            return str(refused)
        unmount_below(Path(trial))
    return None


def unmount_below(home: Path) -> None:
    """Take every disk in this directory away, with all that is on it."""
    mounted = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    for path in sorted(mounted, reverse=True):
        if path.is_relative_to(home.resolve()):
            # Lazily: a process that is about to end may still have a file open.
            subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)
