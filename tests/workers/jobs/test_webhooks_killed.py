"""Senders that are killed between sending and recording repeat events and lose none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from service.ledger.audit import chain
from service.ledger.audit.chain import Action
from service.ledger.database.tables import Webhook
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import Rules
from service.ledger.webhooks.sealing import Sealer
from service.settings import Settings
from tests.workers import receiver
from tests.workers.receiver import Received, Receiver
from workers.jobs.webhooks import Sender
from workers.runtime import Runtime

#: A sender whose clock is so many hours ahead: leases of those before it have expired.
PROGRAM = """
import sys
from datetime import timedelta
from service.ledger.database import db
from service.ledger.webhooks.outbox import Backoff
from service.settings import Settings
from workers.jobs.webhooks import Sender
from workers.runtime import Runtime
ahead = timedelta(hours=int(sys.argv[1]))
sender = Sender(
    Runtime.make(Settings(_env_file=None)),
    Backoff(first_seconds=0),
    clock=lambda: db.now() + ahead,
    round_seconds=600,
    turn_seconds=600,
)
while sender.run():
    pass
"""

_SETTINGS = {
    "webhook_http": True,
    "webhook_networks": "127.0.0.1/32",
    "webhook_timeout_seconds": 60.0,
    "webhook_rate": 10_000.0,
}


@pytest.fixture
def to() -> Iterator[Receiver]:
    with receiver.running() as made:
        yield made


@pytest.fixture
def runtime(settings: Settings, database: Engine) -> Runtime:
    return Runtime.make(settings.model_copy(update=_SETTINGS), engine=database)


def add(runtime: Runtime, to: Receiver) -> str:
    with runtime.session() as session:
        row, _ = endpoints.create(
            session,
            endpoints.New(to.url),
            rules=Rules.from_settings(runtime.settings),
            sealer=Sealer.from_settings(runtime.settings),
            actor="key:k",
            now=runtime.now(),
        )
    return row.id


def happen(runtime: Runtime, requests: list[str]) -> None:
    with runtime.session() as session:
        chain.append_many(
            session,
            actor="worker:w",
            lines=[
                chain.Line(Action.DELETION_REQUEST_COMPLETED, f"deletion_request:{one}")
                for one in requests
            ],
        )


def start(runtime: Runtime, hours: int, **more: str) -> subprocess.Popen[bytes]:
    given = {f"UNLEARN_{name.upper()}": str(value) for name, value in _SETTINGS.items()}
    given |= {
        "UNLEARN_DATABASE_URL": runtime.settings.database_url,
        "UNLEARN_STATE_DIR": str(runtime.settings.state_dir),
    }
    left = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hours)], env={**left, **given, **more}
    )


def test_a_sender_killed_before_it_records_repeats_and_loses_nothing(
    runtime: Runtime, to: Receiver, tmp_path: Path
) -> None:
    webhook = add(runtime, to)
    happen(runtime, ["dr_1", "dr_2", "dr_3"])
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "webhooks.sent").write_text("kill")
    killed = start(runtime, 0, UNLEARN_FAULTS=str(tmp_path / "faults"))
    assert killed.wait() == -signal.SIGKILL
    assert to.requests == ["dr_1"]
    with runtime.session() as session:
        assert session.get_one(Webhook, webhook).failures == 0
    # The dead one's lease still stands: two senders at once would break the order.
    assert not Sender(runtime).run()
    assert to.requests == ["dr_1"]
    later = runtime.now() + timedelta(hours=1)
    assert Sender(runtime, clock=lambda: later, round_seconds=600, turn_seconds=600).run()
    assert to.requests == ["dr_1", "dr_1", "dr_2", "dr_3"]
    assert to.ids[0] == to.ids[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_events_survive_killed_senders_and_a_receiver_that_fails(
    runtime: Runtime, to: Receiver
) -> None:
    chance, failing = random.Random(7), random.Random(11)
    requests = [f"dr_{number:05d}" for number in range(10_000)]
    accepted: list[str] = []
    reached = threading.Event()
    goal = [0]

    def answer(got: Received) -> tuple[int, Mapping[str, str]]:
        if len(to.received) >= goal[0]:
            reached.set()
        if failing.random() < 0.01:
            return 503, {}
        accepted.append(got.event["data"]["deletion_request"])
        return 204, {}

    to.answer = answer
    webhook = add(runtime, to)
    for first in range(0, len(requests), 2_000):
        happen(runtime, requests[first : first + 2_000])
    kills = 0
    for hours in range(1, 200):
        reached.clear()
        goal[0] = len(to.received) + chance.randrange(200, 1_500)
        sender = start(runtime, hours)
        while sender.poll() is None and not reached.wait(0.1):
            pass
        if sender.poll() is None:
            sender.kill()
            kills += 1
        sender.wait()
        with runtime.session() as session:
            row = session.get_one(Webhook, webhook)
            if row.seq == endpoints.head(session):
                break
    assert kills >= 5
    first_times = list(dict.fromkeys(accepted))
    assert first_times == requests
    with runtime.session() as session:
        assert session.scalars(select(Webhook.failures)).all() == [0]
