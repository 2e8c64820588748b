"""``make faults``: the long form. A seed decides the order of breakages and what clients ask."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.faults import catalogue, harness, long, servers
from tests.faults.kinds import Kind

out = Console(highlight=False)


def main() -> int:
    """Break everything; 1 when a promise does not hold."""
    asked = _arguments()
    missing = servers.installed()
    if missing and not asked.embedded:
        out.print(f"[red]{missing} is not installed[/]; use --embedded, or install it")
        return 1
    began = time.monotonic()

    def say(line: str) -> None:
        out.print(f"[dim]{time.monotonic() - began:6.1f}[/] {line}")

    for name, why in catalogue.left_out().items():
        say(f"left out, because no disk can be mounted: {name} ({why})")
    outcome = _long(asked, say) if asked.long else _once(asked, say)
    _show(outcome, seconds=time.monotonic() - began)
    return 1 if outcome.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="reproduces a run")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is broken")
    parser.add_argument("--embedded", action="store_true", help="SQLite and the file broker only")
    parser.add_argument("--only", nargs="*", default=[], help="breakages by (part of) their name")
    parser.add_argument("--keep", action="store_true", help="keep logs, database and files")
    parser.add_argument("--long", action="store_true", help="an hour or more, run after run")
    parser.add_argument(
        "--requests", type=int, default=10_000, help="at least so many, with --long"
    )
    parser.add_argument("--faults", type=int, default=500, help="at least so many, with --long")
    return parser.parse_args()


def _once(asked: argparse.Namespace, say: Callable[[str], None]) -> harness.Outcome:
    names = [
        name
        for name in catalogue.names(embedded=asked.embedded)
        if not asked.only or any(part in name for part in asked.only)
    ]
    with servers.home(keep=asked.keep) as home:
        return harness.run(
            home, names * asked.rounds, seed=asked.seed, embedded=asked.embedded, say=say
        )


def _long(asked: argparse.Namespace, say: Callable[[str], None]) -> harness.Outcome:
    aim = long.Aim(requests=asked.requests, faults=asked.faults)
    return long.run(aim, seed=asked.seed, embedded=asked.embedded, keep=asked.keep, say=say)


def _show(outcome: harness.Outcome, *, seconds: float) -> None:
    table = Table("broken on purpose", "times", "seconds until work went on, at most")
    for name in catalogue.ALL:
        if outcome.broke[name]:
            table.add_row(name, str(outcome.broke[name]), f"{outcome.seconds[name]:.1f}")
    out.print(table)
    for title, counted in (
        ("clients", outcome.clients),
        ("ledger", outcome.ledger),
        ("started again", outcome.revived),
    ):
        out.print(f"{title}: " + ", ".join(f"{n} {name}" for name, n in sorted(counted.items())))
    for promise in outcome.broken:
        out.print(f"[red]broken promise:[/] {promise.kind}: {promise.words}")
    found = Counter(promise.kind for promise in outcome.broken)
    promises = Table("of the requests", "times")
    for kind in Kind:
        promises.add_row(kind.value, str(found[kind]))
    out.print(promises)
    verdict = "[red]not[/] every promise holds" if outcome.broken else "every promise holds"
    out.print(
        f"{verdict}; {outcome.broke.total()} faults, {outcome.clients['accepted']} requests "
        f"accepted, seed {outcome.seed}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
