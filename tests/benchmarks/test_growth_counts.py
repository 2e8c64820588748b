"""Blocks that PostgreSQL touches for a claim, and for a look that finds nothing to do."""

from __future__ import annotations

import pytest
from sqlalchemy import URL

from benchmarks import counters, growth, stock

pytestmark = pytest.mark.slow

#: With some history the same as with much (``make bench-growth``).
IDLE_BLOCKS = 50
#: To erase the row of a request for one, and to complete the request: 83 were measured, and 710
#: where it went through what was closed before, once for each request.
BLOCKS_OF_AN_END = 150
#: 256 requests of one record each, on 20,000 rows, by a worker that has claimed before.
CLAIM_BLOCKS = 5_000


@pytest.fixture
def server(postgres_server: URL) -> str:
    """As ``benchmarks.growth --postgres`` takes it."""
    return postgres_server.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.mark.postgres
def test_lanes_that_find_nothing_to_do_touch_few_blocks(server: str) -> None:
    with growth.ledger(server) as town:
        stock.dataset(town, rows=2_000, array=False)
        stock.anchor(town)
        stock.chain(town, versions=3, rows_each=256)
        looks = growth.idle_looks(town)
    assert sum(look["blocks"] for look in looks.values()) <= IDLE_BLOCKS, looks


@pytest.mark.postgres
def test_old_statistics_and_dead_rows_do_not_multiply_what_a_request_costs(server: str) -> None:
    with growth.ledger(server) as town:
        stock.dataset(town, rows=20_000, array=False)
        stock.anchor(town)
        stock.chain(town, versions=1)
        stock.chain(town, versions=4, rows_each=512, tidied=False)
        stock.chain(town, versions=1, rows_each=512, erased=False, tidied=False)
        with counters.count(town.engine) as counted:
            stock.erase(town)
    assert counted.blocks / 512 <= BLOCKS_OF_AN_END


@pytest.mark.postgres
def test_claim_touches_few_blocks_for_each_request(server: str) -> None:
    with growth.ledger(server) as town:
        stock.dataset(town, rows=20_000, array=False)
        stock.anchor(town)
        stock.claim_first(town)
        stock.ask(town, count=256)
        with counters.count(town.engine) as counted:
            stock.claim(town)
    assert counted.blocks <= CLAIM_BLOCKS
