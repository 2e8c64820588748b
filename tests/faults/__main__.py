"""``make faults``: the long form. A seed decides the order of breakages and what clients ask."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.table import Table

from tests.faults import breakages, harness, servers

out = Console(highlight=False)


def main() -> int:
    """Break everything; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="reproduces a run")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is broken")
    parser.add_argument("--embedded", action="store_true", help="SQLite and the file broker only")
    parser.add_argument("--only", nargs="*", default=[], help="breakages by (part of) their name")
    parser.add_argument("--keep", action="store_true", help="keep logs, database and files")
    asked = parser.parse_args()
    missing = servers.installed()
    if missing and not asked.embedded:
        out.print(f"[red]{missing} is not installed[/]; use --embedded, or install it")
        return 1
    names = [
        name
        for name, (_, own_servers) in breakages.ALL.items()
        if not (asked.embedded and own_servers)
        and (not asked.only or any(part in name for part in asked.only))
    ]
    began = time.monotonic()
    with servers.home(keep=asked.keep) as home:
        outcome = harness.run(
            home,
            names * asked.rounds,
            seed=asked.seed,
            embedded=asked.embedded,
            say=lambda line: out.print(f"[dim]{time.monotonic() - began:6.1f}[/] {line}"),
        )
    _show(outcome, seconds=time.monotonic() - began)
    return 1 if outcome.broken else 0


def _show(outcome: harness.Outcome, *, seconds: float) -> None:
    table = Table("broken on purpose", "times", "seconds until work went on")
    for name in breakages.ALL:
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
        out.print(f"[red]broken promise:[/] {promise}")
    verdict = "[red]not[/] every promise holds" if outcome.broken else "every promise holds"
    out.print(f"{verdict}; seed {outcome.seed}, {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
