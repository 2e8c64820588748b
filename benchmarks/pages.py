"""What a page of the console costs with 100,000 requests and 400 versions.

    python -m benchmarks.pages [--quick] [--postgres URL]

The ledger on PostgreSQL is in a database made for the run and dropped after it. The pages are
fetched from the application in this process, by a browser that has signed in with every scope:
seconds are those of a whole answer, without a network. Each page is fetched several times after a
first that does not count. Statements and blocks do not depend on how busy the machine is, seconds
do, and those of the processor (of this process alone, browser and application) less: where others
work, seconds by the clock are left out, and those of the processor are judged in their place.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from dataclasses import dataclass
from typing import Any

from fastapi.testclient import TestClient
from rich.table import Table

from benchmarks import counters, growth, results, stock
from benchmarks.progress import Steps
from benchmarks.stock import Ledger
from service.ledger.registry import keys
from service.main import create_app

VERSIONS, REQUESTS, OPEN = 400, 100_000, 2_000
FETCHES = 15
MOST_SECONDS, MOST_METRICS_SECONDS = 0.1, 0.05
#: Processes that run or wait, in the last minute; above it the clock tells of others' work.
MOST_LOAD = 4.0
#: Of the processor, by a page that is open for a minute and looks again and again.
MOST_FOLLOWING_SECONDS = 0.05
#: A page may not ask more of the database as there is more to list.
MOST_STATEMENTS = 40
_ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Page:
    """A page by its name, its path and the largest median of seconds that is aimed at."""

    name: str
    path: str
    bound: float = MOST_SECONDS
    #: Whether it looks again and again while it is open.
    follows: bool = False


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests and versions")
    parser.add_argument("--postgres", default="postgresql://127.0.0.1:5432/postgres")
    asked = parser.parse_args()
    measured, targets = measure(asked.postgres, less=10 if asked.quick else 1)
    results.console.print(table(measured))
    results.write("pages-quick" if asked.quick else "pages", measured, targets)


def measure(server: str, *, less: int) -> tuple[dict[str, Any], list[results.Target]]:
    """Fill a ledger and fetch every page; ``less`` divides requests and versions."""
    versions, requests, waiting = VERSIONS // less, REQUESTS // less, OPEN // less
    with growth.ledger(server) as town, Steps([10.0, 1.0]) as steps:
        steps.begin("fill")
        fill(town, versions=versions, requests=requests, waiting=waiting)
        steps.begin("fetch")
        load = os.getloadavg()[0]
        measured = fetch(town)
        steps.end()
    filled = {"versions": versions, "requests": requests, "open": waiting}
    return {**filled, "load": load, "pages": _told(measured, load)}, judged(measured, load)


def judged(measured: dict[str, Any], load: float) -> list[results.Target]:
    """Return the targets: seconds by the clock, or of the processor where others work."""
    which, unit = ("seconds", "s") if load <= MOST_LOAD else ("cpu_seconds", "CPU s")
    return [
        target
        for name, page in measured.items()
        for target in (
            results.at_most(f"{unit} of {name}", page[which], page["bound"]),
            results.at_most(f"statements of {name}", page["statements"], MOST_STATEMENTS),
            *_following(name, page),
        )
    ]


def _following(name: str, page: dict[str, Any]) -> list[results.Target]:
    if not page["follows"]:
        return []
    seconds = page["cpu_seconds"] * 60 / page["between_looks"]
    return [results.at_most(f"CPU s a minute of {name}", seconds, MOST_FOLLOWING_SECONDS)]


def _told(measured: dict[str, Any], load: float) -> dict[str, Any]:
    left_out = {"seconds"} if load > MOST_LOAD else set()
    return {
        name: {key: value for key, value in page.items() if key not in left_out}
        for name, page in measured.items()
    }


def fill(town: Ledger, *, versions: int, requests: int, waiting: int) -> None:
    """A model with a chain of deletions, each of as many requests, and some that wait."""
    rows = 2 * (requests + waiting)
    stock.dataset(town, rows=rows, array=False)
    stock.anchor(town)
    stock.chain(town, versions=versions, rows_each=requests // versions)
    stock.ask(town, count=waiting)


def fetch(town: Ledger) -> dict[str, dict[str, Any]]:
    """Fetch every page several times; return medians of seconds and counts by the page's name."""
    app = create_app(town.runtime.settings)
    with TestClient(app, base_url=_ADDRESS, follow_redirects=False) as browser:
        counters.flush_at_return(app.state.engine)
        with app.state.sessions.begin() as session:
            _, key = keys.create(session, "bench", ["admin"], actor="bench")
        _sign_in(browser, key)
        found = {}
        for page in _pages(town):
            found[page.name] = _fetched(browser, app.state.engine, page, key) | {
                "bound": page.bound,
                "follows": page.follows,
            }
    return found


def _pages(town: Ledger) -> list[Page]:
    with town.runtime.session() as session:
        _, live = stock.live(session)
        newest = live.number
    return [
        Page("requests", "/requests", follows=True),
        Page("requests, completed", "/requests?state=completed", follows=True),
        Page("requests of a dataset", f"/requests?state=all&dataset={stock.NAME}", follows=True),
        Page("one model", f"/models/{stock.NAME}", follows=True),
        Page("one version", f"/models/{stock.NAME}/versions/{newest}"),
        Page("datasets", "/datasets", follows=True),
        Page("operations", "/operations", follows=True),
        Page("audit chain", "/audit"),
        Page("metrics", "/metrics", MOST_METRICS_SECONDS),
    ]


def _fetched(browser: TestClient, engine: Any, page: Page, key: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if page.path == "/metrics" else {}
    seen = []
    for _ in range(FETCHES + 1):
        with counters.count(engine) as counted:
            began, cpu = time.perf_counter(), time.process_time()
            answer = browser.get(page.path, headers=headers)
            taken, cpu = time.perf_counter() - began, time.process_time() - cpu
        if answer.status_code != 200:
            raise SystemExit(f"{page.path} answered {answer.status_code}")
        seen.append(
            {
                "seconds": taken,
                "cpu_seconds": cpu,
                "statements": counted.statements,
                "blocks": counted.blocks,
                "bytes": len(answer.content),
                **_between_looks(answer.text),
            }
        )
    return counters.middle(seen[1:])


def _between_looks(text: str) -> dict[str, int]:
    """After how many seconds a page looks again, if it follows what happens."""
    found = re.search(r' data-live="(\d+)"', text)
    return {} if found is None else {"between_looks": int(found[1])}


def _sign_in(browser: TestClient, key: str) -> None:
    form = browser.get("/sign-in").text
    [token] = re.findall(r'name="token" value="([0-9a-f]{64})"', form)[:1]
    answer = browser.post("/sign-in", data={"token": token, "key": key})
    if answer.status_code != 303:
        raise SystemExit(f"signing in was answered {answer.status_code}")


def table(measured: dict[str, Any]) -> Table:
    """The pages, one a line."""
    shown = Table(title=f"{measured['requests']:,} requests, {measured['versions']} versions")
    for column in ("page", "ms", "CPU ms", "statements", "blocks", "KB"):
        shown.add_column(column, justify="left" if column == "page" else "right")
    for name, page in measured["pages"].items():
        figures = (page["cpu_seconds"] * 1000, page["statements"], page["blocks"])
        taken = f"{page['seconds'] * 1000:.4g}" if "seconds" in page else "left out"
        told = (f"{figure:.4g}" for figure in (*figures, page["bytes"] / 1000))
        shown.add_row(name, taken, *told)
    return shown


if __name__ == "__main__":
    main()
