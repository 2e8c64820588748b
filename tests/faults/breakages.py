"""Processes, messages, files and clocks, broken on purpose.

Each breakage waits until it has taken effect. ``catalogue`` lists those of the other modules, too.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import broker
from service.ledger.batches import leases
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables import AuditEvent, Batch, Lease, Model
from tests.faults.clients import Clients
from tests.faults.fleet import Fleet
from tests.faults.plan import MODEL
from tests.faults.servers import until

EFFECT_SECONDS = 90


@dataclass
class Scene:
    """What a breakage has at hand."""

    fleet: Fleet
    clients: Clients
    chance: random.Random

    def completed(self) -> int:
        with self.fleet.reading() as session:
            wanted = select(func.count()).where(Batch.status == BatchStatus.COMPLETED)
            return int(session.scalar(wanted) or 0)

    def under_load(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition while new requests keep coming in."""
        end = time.monotonic() + EFFECT_SECONDS
        more = 0.0
        while not condition():
            assert time.monotonic() < end, f"not within {EFFECT_SECONDS} s: {what}"
            if time.monotonic() > more:
                self.clients.permit(1)
                more = time.monotonic() + 1.5
            time.sleep(0.05)

    def one_more_batch(self) -> None:
        """Wait until the service has got something done again."""
        before = self.completed()
        self.under_load(lambda: self.completed() > before, "a batch completes afterwards")


Breakage = Callable[[Scene], None]

BATCH_POINTS = (
    "batch.claimed",
    "batch.computing",
    "batch.computed",
    "batch.recording",
    "batch.recorded",
    "erase.overwritten",
    "erase.marked",
)
COMPUTE_POINTS = ("compute.loaded", "compute.updated", "compute.stored", "compute.verified")
TRAIN_POINTS = ("train.claimed", "train.kept", "train.computed", "train.recorded")


def at_point(point: str, action: str) -> Breakage:
    """The first process that reaches the point does the action."""

    def act(scene: Scene) -> None:
        scene.fleet.arm(point, action)
        again = 0.0

        def reached() -> bool:
            nonlocal again
            if point.startswith("train") and time.monotonic() > again:
                consolidate(scene)
                again = time.monotonic() + 5
            return not scene.fleet.armed(point)

        scene.under_load(reached, f"{point} is reached")
        scene.one_more_batch()

    return act


def kill_preparing(scene: Scene) -> None:
    """An anchor is prepared in the background only while no batch is quicker: no load here."""
    scene.fleet.arm("prepare.computed", "kill")
    end = time.monotonic() + 2 * EFFECT_SECONDS
    again = 0.0
    while scene.fleet.armed("prepare.computed"):
        assert time.monotonic() < end, "no anchor was prepared"
        if time.monotonic() > again:
            consolidate(scene)
            again = time.monotonic() + 10
        time.sleep(0.05)
    scene.one_more_batch()


def consolidate(scene: Scene) -> None:
    """Train anew in the background; refused while another training runs, which does as well."""
    fleet = scene.fleet
    url = f"http://127.0.0.1:{fleet.ports[0]}/v1/models/{MODEL}/training-runs"
    try:
        fleet.http.post(url, headers=fleet.headers, json={"reason": "consolidate"})
    except httpx.TransportError:
        return


def kill_worker(scene: Scene) -> None:
    name = scene.chance.choice(scene.fleet.workers)
    scene.clients.permit(4)
    scene.fleet.kill(name)
    scene.one_more_batch()


def kill_compute(scene: Scene) -> None:
    scene.clients.permit(4)
    for name in scene.fleet.workers:
        for pid in scene.fleet.compute_pids(name):
            os.kill(pid, signal.SIGKILL)
    scene.one_more_batch()


def kill_api(scene: Scene) -> None:
    scene.clients.permit(4)
    scene.fleet.kill("api")
    until(lambda: scene.fleet.get("/readyz") is not None, "the API is back", seconds=60)


def kill_beat(scene: Scene) -> None:
    scene.fleet.kill("beat")
    scene.one_more_batch()


def flush_redis(scene: Scene) -> None:
    assert scene.fleet.redis is not None
    scene.clients.permit(4)
    scene.fleet.redis.flush()
    scene.one_more_batch()


def stop_redis(scene: Scene) -> None:
    """Work goes on without a broker: the database drives."""
    assert scene.fleet.redis is not None
    scene.fleet.redis.stop()
    try:
        scene.one_more_batch()
    finally:
        scene.fleet.redis.start()
    scene.one_more_batch()


def restart_postgres(scene: Scene) -> None:
    assert scene.fleet.postgres is not None
    scene.clients.permit(4)
    scene.fleet.postgres.stop()
    scene.fleet.postgres.start()
    # What the harness itself reads with is gone as well.
    scene.fleet.engine.dispose()
    scene.one_more_batch()


def repeat_messages(scene: Scene) -> None:
    """Every task several times over, and some of them late."""
    scene.clients.permit(4)
    scene.fleet.messages(10)
    _late_messages(scene.fleet)
    scene.one_more_batch()


def _late_messages(fleet: Fleet) -> None:
    from celery import Celery

    reached = broker.configure(fleet.settings)
    app = Celery("faults", broker=reached.url, set_as_current=False)
    app.conf.broker_transport_options = reached.transport_options
    for task, queue in (
        (broker.RUN_BATCHES, broker.DELETIONS),
        (broker.RUN_TRAININGS, broker.TRAININGS),
        (broker.RUN_BACKGROUND, broker.BACKGROUND),
    ):
        app.send_task(task, queue=queue, countdown=3, ignore_result=True)
    app.close()


def slow_worker(scene: Scene) -> None:
    """A worker stops in mid-batch for longer than its lease, and wakes up to find it taken."""
    fleet = scene.fleet
    for _ in range(4):
        fleet.arm("batch.computed", "stop")
        scene.under_load(lambda: fleet.stopped() is not None, "a worker has stopped itself")
        name = fleet.stopped()
        assert name is not None
        try:
            if _overtaken(scene):
                scene.one_more_batch()
                break
        finally:
            fleet.kill(name, signal.SIGCONT)
        # Its other thread was stopped within a transaction: until it wakes, nobody can write.
        scene.clients.tally["stopped with a lock"] += 1
    else:
        raise AssertionError("the other worker never took over")
    scene.one_more_batch()


def _overtaken(scene: Scene) -> bool:
    """Whether another worker gets the model's lease while its holder is stopped."""

    def fence() -> int:
        with scene.fleet.reading() as session:
            return session.scalar(select(Lease.fence).where(Lease.key == _of_model(session))) or 0

    before = fence()
    end = time.monotonic() + 5 * scene.fleet.settings.lease_seconds
    while time.monotonic() < end:
        if fence() > before:
            return True
        time.sleep(0.05)
    return False


def _of_model(session: Session) -> str:
    """Key of the model's lease."""
    return leases.of_model(session.scalars(select(Model.id).where(Model.name == MODEL)).one())


def wrong_clock(scene: Scene) -> None:
    """One worker comes back with a clock that is an hour off, then is killed and set right."""
    fleet = scene.fleet
    name = fleet.workers[-1]
    seconds = scene.chance.choice(["3600", "-3600"])
    fleet.children[name].special = {"UNLEARN_FAULT_CLOCK_SECONDS": seconds}
    fleet.kill(name)
    try:
        scene.one_more_batch()
        scene.one_more_batch()
    finally:
        fleet.children[name].special = {}
        fleet.kill(name)
    scene.one_more_batch()


def damage(kind: str, file: str) -> Breakage:
    """Flip one byte of what the next batch would read."""

    def act(scene: Scene) -> None:
        found = scene.fleet.stored(kind)
        if found is not None:
            path = found[1] / file
            try:
                content = bytearray(path.read_bytes())
            except OSError:
                return  # purged in this moment
            content[len(content) // 2] ^= 0xFF
            path.chmod(0o644)
            path.write_bytes(content)
        scene.fleet.kill(scene.fleet.workers[0])  # so that nobody has it in memory
        for pid in scene.fleet.compute_pids(scene.fleet.workers[1]):
            os.kill(pid, signal.SIGKILL)
        scene.one_more_batch()

    return act


def failed_batches(scene: Scene) -> int:
    """How many batches have failed so far."""
    with scene.fleet.reading() as session:
        wanted = select(func.count()).where(Batch.status == BatchStatus.FAILED)
        return session.scalar(wanted) or 0


def unwritable_store(scene: Scene) -> None:
    """Checkpoints can neither be read nor written for a while."""
    store = scene.fleet.settings.store
    away = store / "away"
    (store / "checkpoints").rename(away)
    (store / "checkpoints").write_text("in the way")
    before = failed_batches(scene)
    try:
        scene.under_load(lambda: failed_batches(scene) > before, "a batch fails")
    finally:
        (store / "checkpoints").unlink()
        away.rename(store / "checkpoints")
    scene.one_more_batch()


def working(scene: Scene) -> tuple[str, str]:
    """A worker whose batch waits in its computation for a sign, and the batch."""
    fleet = scene.fleet
    fleet.arm("compute.updated", "wait")
    scene.under_load(lambda: not fleet.armed("compute.updated"), "an update waits")
    with fleet.reading() as session:
        batch = session.scalar(
            select(Batch.id)
            .join(Model, Model.id == Batch.model_id)
            .where(Model.name == MODEL, Batch.status == BatchStatus.RUNNING)
        )
        owner = session.scalar(select(Lease.owner).where(Lease.key == _of_model(session))) or ""
    assert batch is not None
    pid = int(owner.rsplit("-", 2)[1])
    return next(name for name in fleet.workers if fleet.children[name].pid == pid), batch


def stop_in_time(scene: Scene) -> None:
    """SIGTERM in mid-batch: what can be finished within the grace is finished."""
    fleet = scene.fleet
    name, batch_id = working(scene)
    sign = fleet.faults / "compute.updated.go"
    try:
        fleet.kill(name, signal.SIGTERM)
        sign.touch()
        code = fleet.wait_ended(name)
    finally:
        sign.unlink(missing_ok=True)
    with fleet.reading() as session:
        batch = session.get_one(Batch, batch_id)
        assert (batch.status, batch.attempts) == (BatchStatus.COMPLETED, 1), batch.error
    assert code == 0, f"{name} ended with {code}"
    scene.one_more_batch()


def stop_too_late(scene: Scene) -> None:
    """SIGTERM in mid-batch: what cannot be finished is handed back, and counts for nothing."""
    fleet = scene.fleet
    name, batch_id = working(scene)
    fleet.kill(name, signal.SIGTERM)
    code = fleet.wait_ended(name)
    with fleet.reading() as session:
        events = session.scalars(
            select(AuditEvent.action)
            .filter_by(subject=f"batch:{batch_id}")
            .order_by(AuditEvent.seq)
        ).all()
    assert list(events) == ["batch:claimed", "batch:handed_back"], events
    assert code == 0, f"{name} ended with {code}"
    scene.one_more_batch()


def rolling_restart(scene: Scene) -> None:
    """Every worker and every API in turn; no request is refused, or recorded without an answer."""
    fleet, tally = scene.fleet, scene.clients.tally
    before = {name: many for name, many in tally.items() if name.startswith("answer")}
    for name in [*fleet.workers, *fleet.apis]:
        scene.clients.permit(3)
        fleet.kill(name, signal.SIGTERM)
        fleet.wait_ended(name)
        if name in fleet.apis:
            port = fleet.ports[fleet.apis.index(name)]
            until(lambda port=port: fleet.get("/readyz", port=port) is not None, f"{name} is back")
        else:
            scene.one_more_batch()
    after = {name: many for name, many in tally.items() if name.startswith("answer")}
    assert after == before, f"requests failed: {before} became {after}"
