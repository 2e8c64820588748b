"""One run: start everything, break things under load, let it settle, check the promises."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.database.states import BatchStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import (
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Model,
    Version,
)
from tests.faults import breakages, catalogue, promises, promises_files
from tests.faults.buckets import Bucket
from tests.faults.clients import Clients
from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind
from tests.faults.outcome import Outcome
from tests.faults.servers import until

SETTLE_SECONDS = 150
PERMITS = 6


def run(
    home: Path,
    names: Sequence[str],
    *,
    seed: int,
    embedded: bool = False,
    bucket: Bucket | None = None,
    permits: int = PERMITS,
    say: Callable[[str], None] = lambda _line: None,
    note: Callable[[int, int], None] = lambda _faults, _requests: None,
) -> Outcome:
    """Break everything named, in an order that the seed decides.

    ``bucket`` is in place of the store's directory. ``permits`` is how many requests clients send
    each time, before others that keep them busy.
    """
    chance = random.Random(seed)
    order = list(names)
    chance.shuffle(order)
    outcome = Outcome(seed)
    fleet = Fleet(
        home,
        embedded=embedded,
        apis=1 if embedded else 2,
        disks=any(catalogue.ALL[name].disks for name in names),
        bucket=bucket,
    )
    timed = _Timed(outcome.phases)
    try:
        with timed("start"):
            fleet.start()
        say(f"running in {home}")
        clients = Clients(fleet, seed)
        scene = breakages.Scene(fleet, clients, chance)
        with kept_running(fleet, outcome.revived):
            clients.start()
            try:
                for name in order:
                    began = time.monotonic()
                    clients.permit(permits)
                    try:
                        catalogue.ALL[name].act(scene)
                    except Exception as missed:  # the others are still to be made
                        words = f"{name}: {type(missed).__name__}: {missed}"
                        outcome.broken.append(Broken(Kind.OTHER, words))
                    outcome.broke[name] += 1
                    outcome.seconds[name] = time.monotonic() - began
                    outcome.phases["faults"] += outcome.seconds[name]
                    say(f"{name}: {outcome.seconds[name]:.1f} s")
                    note(outcome.broke.total(), len(clients.accepted))
            finally:
                with timed("last answers"):
                    clients.finish()
            fleet.disarm()
            try:
                with timed("settling"):
                    _settle(fleet)
                with timed("ingesting again"):
                    fleet.ingest_again()
            except AssertionError as missed:
                outcome.broken.append(Broken(Kind.LOST, f"it does not settle: {missed}"))
            with timed("checking"):
                outcome.broken += [*clients.errors, *promises.broken(fleet, clients.accepted)]
        outcome.clients, outcome.accepted = clients.tally, clients.accepted
        outcome.fleet = fleet
        outcome.ledger = _count(fleet)
    finally:
        with timed("end"):
            fleet.close()
    return outcome


class _Timed:
    """Adds up how long each part of a run takes."""

    def __init__(self, phases: Counter[str]) -> None:
        self._phases = phases

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] += time.monotonic() - began


@contextmanager
def kept_running(fleet: Fleet, revived: Counter[str]) -> Iterator[None]:
    """What an init system does: start again whatever ended."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(0.1):
            revived.update(fleet.revive())

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _settle(fleet: Fleet) -> None:
    """Until nothing moves any more.

    An operator retries what was put aside, at most three times, and approves what is held.
    """
    retried: Counter[str] = Counter()

    def settled() -> bool:
        with fleet.reading() as session:
            open_ones = session.scalars(
                select(DeletionRequest).where(DeletionRequest.status.not_in(promises.ENDS))
            ).all()
            held = session.execute(
                select(Model.name, Version.number)
                .join(Version, Version.model_id == Model.id)
                .join(Batch, Batch.version_id == Version.id)
                .where(Batch.status == BatchStatus.HELD, Version.status == VersionStatus.CANDIDATE)
            ).all()
            left = _at_work(session)
        for request in open_ones:
            if request.status == RequestStatus.NEEDS_REVIEW and retried[request.id] < 3:
                retried[request.id] += 1
                fleet.send("POST", f"/v1/deletion-requests/{request.id}:retry", {})
        for name, number in held:
            fleet.send("POST", f"/v1/models/{name}/versions/{number}:approve", {}, also=(409,))
        return not open_ones and not held and not left

    until(settled, "every request has ended", seconds=SETTLE_SECONDS)
    until(lambda: not promises_files.orphans(fleet), "orphans are swept", seconds=60)


def _at_work(session: Session) -> bool:
    """Whether a batch runs, a version is to be decided on, or something is to be destroyed."""
    waiting = (
        select(Batch.id).where(Batch.status == BatchStatus.RUNNING),
        select(Version.id).where(Version.status == VersionStatus.CANDIDATE),
        select(Model.id).where(Model.withdrawn_at.is_not(None), Model.purged_at.is_(None)),
        select(Dataset.id).where(Dataset.withdrawn_at.is_not(None), Dataset.purged_at.is_(None)),
    )
    return any(session.scalar(one.limit(1)) is not None for one in waiting)


def _count(fleet: Fleet) -> Counter[str]:
    counted: Counter[str] = Counter()
    with fleet.reading() as session:
        for status, many in session.execute(
            select(DeletionRequest.status, func.count()).group_by(DeletionRequest.status)
        ):
            counted[f"requests {status.value}"] = many
        for status, many in session.execute(
            select(Batch.status, func.count()).group_by(Batch.status)
        ):
            counted[f"batches {status.value}"] = many
        for origin, many in session.execute(
            select(Version.origin, func.count()).group_by(Version.origin)
        ):
            counted[f"versions {origin}"] = many
        counted["audit lines"] = session.scalar(select(func.count()).select_from(AuditEvent)) or 0
        counted["batches handed back"] = (
            session.scalar(select(func.count()).where(AuditEvent.action == "batch:handed_back"))
            or 0
        )
    return counted
