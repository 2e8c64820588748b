"""What a deletion, a claim and an idle worker cost, by what there is already.

    python -m benchmarks.growth [--quick] [--only claim …] [--resume]

The ledger on PostgreSQL, in a database made for the run and dropped after it, filled with as many
rows, versions and old requests as each line says; the recipes of a worker and a real compute
process work on it. Counted are statements, blocks that PostgreSQL touched (in its cache or not),
rows written and the processor seconds of the compute process: seconds by the clock depend on who
else works on the machine.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import func, make_url, select

from benchmarks import counters, ingest, intake, parts, results, stock
from benchmarks.parts import Part
from benchmarks.progress import Tell
from benchmarks.stock import Ledger
from service.ledger.database.tables import Reconciliation, Record
from service.ledger.reconciliation import reconciler
from service.ledger.registry import forgotten, lineage
from workers.jobs import pipeline, reconcile
from workers.schedule import lanes

#: Deletions measured per line, after one that does not count; the median is reported.
REPEATS = 5
#: Looks for work of which the cheapest is reported: the first ones of a connection plan their
#: statements, and the pool may open another connection at any time.
LOOKS = 40


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and requests")
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    parts.add_options(parser, list(LINES))
    asked = parser.parse_args()
    less = 10 if asked.quick else 1
    parts.measure(
        "growth-quick" if asked.quick else "growth",
        [Part(name, partial(_line, line, asked.postgres, less)) for name, line in LINES.items()],
        only=asked.only,
        resume=asked.resume,
    )


def _line(line: Callable[[str, int], Line], server: str, less: int, _tell: Tell) -> Line:
    return line(server, less)


_LANES = {
    "deletions": lanes.DELETIONS,
    "trainings": lanes.TRAININGS,
    "background": lanes.BACKGROUND,
    "events": lanes.EVENTS,
}

Line = tuple[dict[str, Any], list[results.Target]]


def rows_of_the_dataset(server: str, less: int) -> Line:
    """One record deleted from 10,000 rows and from a hundred times as many."""
    seen = {}
    for rows in (10_000, 1_000_000 // less):
        with ledger(server) as town:
            stock.dataset(town, rows=rows)
            stock.train(town)
            seen[str(rows)] = _one_deletion(town)
    small, large = seen.values()
    return seen, [
        results.at_most(f"{what} of one deletion, largest / 10,000 rows", ratio, 2.0)
        for what in ("blocks", "cpu")
        for ratio in [large[what] / small[what]]
    ] + [results.at_most("statements of one deletion", large["statements"], 60)]


def versions_since_the_anchor(server: str, less: int) -> Line:
    """One record deleted when the live version is the first, and the 400th, since its anchor."""
    seen = {}
    for count in (1, 400 // min(less, 4)):
        with ledger(server) as town:
            stock.dataset(town, rows=10_000)
            stock.train(town)
            stock.chain(town, versions=count)
            seen[str(count)] = _one_deletion(town)
    small, large = seen.values()
    return seen, [
        results.at_most(
            f"{what} of one deletion, many versions / one", large[what] / small[what], 1.5
        )
        for what in ("blocks", "statements")
    ]


def forgotten_since_the_anchor(server: str, less: int) -> Line:
    """What a version holds, by how much was forgotten since its anchor; little work memory."""
    seen = {}
    for count in (20_000 // less, 200_000 // less):
        with ledger(server) as town:
            stock.dataset(town, rows=2 * count, array=False)
            stock.anchor(town)
            stock.chain(town, versions=1, rows_each=count)
            with counters.count(town.engine) as counted, town.runtime.session() as session:
                session.connection().exec_driver_sql("SET LOCAL work_mem = '64kB'")
                model, live = stock.live(session)
                forgotten.requests_in(session, model, live)
                held = session.scalar(
                    select(func.count()).where(
                        Record.dataset_id == model.dataset_id,
                        lineage.contained(session, live),
                    )
                )
            seen[str(count)] = counted.to_json() | {"held": held}
    small, large = seen.values()
    return seen, [
        results.at_most(
            "blocks to tell what a version holds, ten times as much forgotten",
            large["blocks"] / small["blocks"],
            12.0,
        )
    ]


def idle(server: str, less: int) -> Line:
    """One look for work of every lane, with 150,000 erasures in history and nothing to do."""
    with ledger(server) as town:
        stock.dataset(town, rows=250_000 // less, array=False)
        stock.anchor(town)
        stock.chain(town, versions=100, rows_each=1500 // less, erased=True)
        looks = idle_looks(town)
        checks = _checks(town)
    total = sum(look["blocks"] for look in looks.values())
    return looks | {"checks": checks, "erasures": 150_000 // less}, [
        results.at_most("blocks of an idle look for work", total, 50)
    ]


def idle_looks(town: Ledger) -> dict[str, dict[str, Any]]:
    """What one look of each lane costs that finds nothing to do; the check has proven all."""
    looks = {}
    for name, recipes in _LANES.items():

        def look(recipes: Sequence[lanes.Recipe] = recipes) -> None:
            for recipe in recipes:
                recipe(town.runtime)

        seen = []
        for _ in range(LOOKS):
            with counters.count(town.engine) as counted:
                look()
            seen.append(counted.to_json())
        looks[name] = min(seen, key=lambda one: one["blocks"])
    return looks


def _checks(town: Ledger) -> dict[str, Any]:
    """What the check behind costs when it is due: after one more deletion, and for everything."""
    stock.chain(town, versions=1)
    with counters.count(town.engine) as new:
        reconcile.run_due(town.runtime)
    with town.runtime.session() as session:
        session.get_one(Reconciliation, 1).full_at = None
    steps = []
    due = True
    while due:
        with counters.count(town.engine) as counted:
            reconcile.run_due(town.runtime)
        steps.append(counted.blocks)
        with town.runtime.session() as session:
            due = reconciler.is_due(session, now=town.runtime.now())
    full = {"steps": len(steps), "blocks": sum(steps), "largest_step": max(steps)}
    return {"after_one_deletion": new.to_json(), "full_proof": full}


def claim(server: str, less: int) -> Line:
    """256 requests of one record each become a batch, by a worker that has claimed before."""
    with ledger(server) as town:
        stock.dataset(town, rows=1_000_000 // less, array=False)
        stock.anchor(town)
        stock.claim_first(town)
        stock.ask(town, count=256, first=1)
        warm = counters.median(town.engine, [lambda: stock.claim(town)])
        stock.hand_back(town)
        found = counters.median(town.engine, [lambda: stock.claim(town)])
    return {"first": warm, "again": found}, [
        results.at_most("blocks of claiming 256 requests", warm["blocks"], 5_000)
    ]


def class_requests(server: str, less: int) -> Line:
    """1,000 requests for a class in one call."""
    with ledger(server) as town:
        stock.dataset(town, rows=100_000 // less, array=False)
        stock.anchor(town)
        with counters.count(town.engine) as counted:
            stock.ask_for_classes(town, count=1000)
    return counted.to_json(), [
        results.at_most("rows written by 1,000 class requests", counted.written, 5_000)
    ]


def state_kept(server: str, less: int) -> Line:
    """Bytes kept beside the versions after a row of deletions of one record each."""
    count = 50 // min(less, 5)
    with ledger(server) as town:
        stock.dataset(town, rows=10_000)
        stock.train(town)
        for row in stock.training_rows(town, count):
            stock.delete(town, row)
        for recipe in lanes.BACKGROUND:
            recipe(town.runtime)
        kept = stock.kept_bytes(town)
    states = kept["states"] / kept["one_state"]
    return kept | {"deletions": count}, [results.at_most("running sums kept", states, 2.0)]


def intake_rate(server: str, less: int) -> Line:
    """What the API accepts against an endpoint that inserts one row, and with two processes."""
    return intake.measure(server, quick=less > 1)


def ingested(server: str, less: int) -> Line:
    """A million rows of Parquet ingested, with another writer beside them."""
    return ingest.measure(1_000_000 // less, server=server)


LINES: dict[str, Callable[[str, int], Line]] = {
    "rows": rows_of_the_dataset,
    "versions": versions_since_the_anchor,
    "forgotten": forgotten_since_the_anchor,
    "idle": idle,
    "claim": claim,
    "class": class_requests,
    "state": state_kept,
    "ingest": ingested,
    "intake": intake_rate,
}


def _one_deletion(town: Ledger) -> dict[str, Any]:
    """Counters from the claim of one request of one record to its completion."""
    seen = []
    for row in stock.training_rows(town, REPEATS + 2):
        stock.ask_for(town, row)
        with counters.count(town.engine, pid=town.runtime.compute.pid) as counted:
            pipeline.run_due(town.runtime)
        seen.append(counted.to_json())
    return counters.middle(seen[2:])  # the first ones load what later ones find in memory


@contextmanager
def ledger(server: str) -> Iterator[Ledger]:
    """A migrated database of its own, a store and a worker's runtime; all gone afterwards."""
    name = f"unlearn_growth_{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix="bench-growth-"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    try:
        town = stock.found(url, home)
        try:
            yield town
        finally:
            town.runtime.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


if __name__ == "__main__":
    main()
