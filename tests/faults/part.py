"""One run of the long form in a process of its own: asked on standard input, told on output.

Standard input carries the run as one line of JSON and ends when the process that asked is gone,
however it ended: then everything that was started here is ended, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from tests.faults import harness, servers


@dataclass(frozen=True)
class Part:
    """One run: what it breaks, in an order that its seed decides, and how much is asked."""

    number: int
    seed: int
    embedded: bool
    names: tuple[str, ...]
    #: How many requests clients send before each breakage.
    permits: int
    keep: bool = False

    def as_line(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def from_line(line: str) -> Part:
        """Return what ``as_line`` was made of."""
        told = json.loads(line)
        return Part(**told | {"names": tuple(told["names"])})


def main() -> None:
    """Run what is asked for; one line of JSON for each thing that there is to say."""
    part = Part.from_line(sys.stdin.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where a shell has it ignored, as for what it starts in the background.
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_follow, daemon=True).start()
    with servers.home(keep=part.keep) as home:
        outcome = harness.run(
            home,
            part.names,
            seed=part.seed,
            embedded=part.embedded,
            permits=part.permits,
            say=lambda line: _tell({"say": line}),
            note=lambda broke, asked: _tell({"broke": broke, "asked": asked}),
        )
        if outcome.broken:
            _tell({"say": f"logs are kept in {servers.keep_logs(home, part.seed)}"})
    _tell({"outcome": outcome.as_json()})


def _tell(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)


def _follow() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)  # KeyboardInterrupt: everything is closed on the way out


if __name__ == "__main__":
    main()
