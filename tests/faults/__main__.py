"""``make faults``: the long form. A seed decides the order of breakages and what clients ask."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults import catalogue, harness, long, servers
from tests.faults.buckets import Bucket
from tests.faults.kinds import Kind
from tests.faults.outcome import Outcome
from tests.faults.progress import Differs, Progress

out = Console(highlight=False)


def main() -> int:
    """Break everything; 1 when a promise does not hold."""
    asked = _arguments()
    missing = servers.installed()
    if missing and not asked.embedded:
        out.print(f"[red]{missing} is not installed[/]; use --embedded, or install it")
        return 1
    if not any(
        catalogue.named(asked.only, embedded=form, bucket=asked.bucket)
        for form in (True, asked.embedded)
    ):
        out.print(f"[red]nothing is called[/] {' or '.join(asked.only)}")
        return 1
    began = time.monotonic()

    def say(line: str) -> None:
        out.print(f"[dim]{time.monotonic() - began:6.1f}[/] {line}", soft_wrap=True)

    for name, why in catalogue.left_out().items():
        say(f"left out, because no disk can be mounted: {name} ({why})")
    try:
        outcome = _long(asked, say) if asked.long else _once(asked, say)
    except Differs as refused:
        out.print(f"[red]not gone on with:[/] {refused}")
        return 1
    _show(outcome, seconds=time.monotonic() - began)
    return 1 if outcome.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="reproduces a run")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is broken")
    parser.add_argument("--embedded", action="store_true", help="SQLite and the file broker only")
    parser.add_argument("--bucket", action="store_true", help="keep the store on an S3 server")
    parser.add_argument("--only", nargs="*", default=[], help="breakages by (part of) their name")
    parser.add_argument("--keep", action="store_true", help="keep logs, database and files")
    parser.add_argument("--long", action="store_true", help="run after run; the rest is for it")
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many")
    parser.add_argument("--faults", type=int, default=500, help="at least so many")
    parser.add_argument(
        "--at-once",
        type=int,
        default=long.PARTS_AT_ONCE,
        help="so many runs at the same time; default: one more than there are processors",
    )
    parser.add_argument(
        "--progress",
        type=Path,
        help="file for the runs that are over; default: .faults/long-SEED.jsonl",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where that file ends, if it is there"
    )
    return parser.parse_args()


def _once(asked: argparse.Namespace, say: Callable[[str], None]) -> Outcome:
    names = catalogue.named(asked.only, embedded=asked.embedded, bucket=asked.bucket)
    with servers.home(keep=asked.keep) as home, contextlib.ExitStack() as opened:
        outcome = harness.run(
            home,
            names * asked.rounds,
            seed=asked.seed,
            embedded=asked.embedded,
            bucket=opened.enter_context(contextlib.closing(Bucket())) if asked.bucket else None,
            say=say,
        )
        if outcome.broken:
            say(f"logs are kept in {servers.keep_logs(home, asked.seed)}")
        return outcome


def _long(asked: argparse.Namespace, say: Callable[[str], None]) -> Outcome:
    aim = long.Aim(
        requests=asked.requests,
        faults=asked.faults,
        seed=asked.seed,
        embedded=asked.embedded,
        only=tuple(asked.only),
    )
    path = asked.progress or servers.KEPT / f"long-{asked.seed}.jsonl"
    progress = Progress(path, aim.as_json(), resume=asked.resume)
    return long.run(aim, progress, at_once=max(1, asked.at_once), keep=asked.keep, say=say)


def _show(outcome: Outcome, *, seconds: float) -> None:
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
        words = ", ".join(f"{n} {name}" for name, n in sorted(counted.items()))
        out.print(f"{title}: {words}", soft_wrap=True)
    words = ", ".join(f"{n:.0f} {name}" for name, n in outcome.phases.items())
    out.print(f"seconds of all runs: {words}", soft_wrap=True)
    for promise in outcome.broken:
        out.print(f"[red]broken promise:[/] {promise.kind}: {promise.words}", soft_wrap=True)
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
