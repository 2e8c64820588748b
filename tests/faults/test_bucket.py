"""The short form of ``make faults`` on a bucket of a real S3 server."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.faults import catalogue, harness
from tests.faults.buckets import Bucket
from tests.faults.test_faults import SEED, home, need_servers

__all__ = ["home"]


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.usefixtures("s3_server")  # left out with a reason where it is not installed
def test_nothing_is_lost_or_repeated_whatever_happens_to_a_bucket(home: Path) -> None:
    need_servers()
    with contextlib.closing(Bucket()) as bucket:
        outcome = harness.run(home, catalogue.BUCKET, seed=SEED, bucket=bucket)
    assert outcome.broken == []
    assert set(outcome.broke) == set(catalogue.BUCKET)
    assert outcome.ledger["requests completed"] > 20
    assert outcome.ledger["batches handed back"] > 0
