"""What a worker holds: its time, its leases, its rests."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select

from service.ledger.database import db
from service.settings import Settings
from workers.compute.process import ComputeProcess, Stopping
from workers.runtime import Runtime


@pytest.fixture
def runtime(settings: Settings, database: Engine) -> Runtime:
    """A runtime whose compute process is never started."""
    return Runtime(settings, database, ComputeProcess(device="cpu", threads=1), owner="w1")


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_workers_on_one_server_agree_on_the_time_whatever_their_clocks_say(
    runtime: Runtime, database: Engine, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setenv("UNLEARN_FAULT_CLOCK_SECONDS", str(seconds))
    told = runtime.now()
    if database.dialect.name == "postgresql":
        with database.connect() as connection:
            right = connection.execute(select(func.clock_timestamp())).scalar_one()
    else:  # one machine, one clock
        right = db.now() + timedelta(seconds=seconds)
    assert abs(told - right) < timedelta(seconds=60)


def test_time_goes_on_between_two_questions(runtime: Runtime) -> None:
    first, second, third = (runtime.now() for _ in range(3))
    assert first < second < third


def test_lease_is_released_when_the_work_raises(runtime: Runtime) -> None:
    with pytest.raises(KeyError), runtime.lease("model:1"):
        raise KeyError
    with runtime.lease("model:1") as again:
        assert again is not None


def test_second_of_two_gets_none(runtime: Runtime) -> None:
    with runtime.lease("model:1") as held, runtime.lease("model:1") as second:
        assert held is not None
        assert second is None


def test_stop_is_heeded_after_the_grace_only(runtime: Runtime) -> None:
    runtime.heed_stop()
    runtime.stop.set()
    runtime.heed_stop()  # the grace has just begun
    assert runtime.stopped_at is not None
    runtime.stopped_at -= runtime.settings.grace_seconds
    with pytest.raises(Stopping):
        runtime.heed_stop()


def test_what_failed_is_left_alone_and_nothing_else_is(runtime: Runtime) -> None:
    runtime.rest("prepare:1")
    assert runtime.resting("prepare:1")
    assert not runtime.resting("prepare:2")
