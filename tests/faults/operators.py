"""What operators do in the middle of the work: withdraw, cancel, limit a day."""

from __future__ import annotations

import time
from collections import Counter
from itertools import cycle
from typing import Literal

import httpx
from sqlalchemy import func, or_, select

from service.ledger.database.states import RequestStatus, RunStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    RequestRecord,
    TrainingRun,
    Version,
)
from tests.faults.breakages import EFFECT_SECONDS, Scene, working
from tests.faults.plan import DATASET, MODEL, Withdrawal
from tests.faults.servers import until

#: What a day's limit leaves, and how many requests of one record each are sent at once.
LEFT_TODAY = 10
AT_ONCE = 30

#: What becomes of those that wait for approval, in turn.
DECISIONS: tuple[Literal["approve", "deny", "cancel"], ...] = ("approve", "deny", "cancel")

#: Requests that a day's limit does not count.
UNCOUNTED = (
    RequestStatus.AWAITING_APPROVAL,
    RequestStatus.DENIED,
    RequestStatus.CANCELLED,
    RequestStatus.NO_MATCH,
)


def withdraw_version(scene: Scene) -> None:
    """The live version is withdrawn in mid-batch; nothing is live until a training has ended."""
    fleet = scene.fleet
    sign = fleet.faults / "compute.updated.go"
    working(scene)
    try:
        live = scene.clients.send("GET", f"/v1/models/{MODEL}").json()["production"]
        path = f"/v1/models/{MODEL}/versions/{live}:withdraw"
        scene.clients.send("POST", path, {"purge": "now"})
        fleet.withdrawn.append(Withdrawal("version", MODEL, live))
        sign.touch()
        train(scene)
        scene.under_load(lambda: fleet.live() not in (None, live), "a new version is live")
    finally:
        sign.unlink(missing_ok=True)
    scene.one_more_batch()


def cancel_training(scene: Scene) -> None:
    """A training is cancelled when its weights are there and nothing is recorded."""
    fleet = scene.fleet
    sign = fleet.faults / "train.computed.go"
    fleet.arm("train.computed", "wait")
    run = train(scene)
    try:
        scene.under_load(lambda: not fleet.armed("train.computed"), "a training waits")
        scene.clients.send("POST", f"/v1/models/{MODEL}/training-runs/{run}:cancel", {})
        sign.touch()
        scene.one_more_batch()
    finally:
        sign.unlink(missing_ok=True)
    with fleet.reading() as session:
        status = session.scalar(select(TrainingRun.status).where(TrainingRun.id == run))
        made = session.scalar(select(Version.number).where(Version.training_run_id == run))
    assert (status, made) == (RunStatus.CANCELLED, None), f"{run}: {status}, version {made}"


def train(scene: Scene) -> str:
    """Ask for a training until it is taken (one model trains once at a time); the run's id."""
    fleet = scene.fleet
    url = f"http://127.0.0.1:{fleet.ports[0]}/v1/models/{MODEL}/training-runs"
    end = time.monotonic() + EFFECT_SECONDS
    met = ""
    while time.monotonic() < end:
        try:
            answer = fleet.http.post(url, headers=fleet.headers, json={"seed": 5})
        except httpx.TransportError as failed:
            met = repr(failed)
        else:
            if answer.is_success:
                return str(answer.json()["id"])
            met = answer.text
        time.sleep(0.2)
    raise AssertionError(f"no training was taken: {met}")


def one_allowance(scene: Scene) -> None:
    """All APIs are asked at once for more than a day allows; one of them is killed meanwhile."""
    fleet, clients = scene.fleet, scene.clients
    until(clients.idle, "clients have their answers", seconds=EFFECT_SECONDS)
    rows, counted = _fresh_rows(scene)
    allowed = min(LEFT_TODAY, len(rows))
    fleet.limit_a_day(counted + allowed)
    killed = scene.chance.choice(fleet.apis)
    try:
        sent = clients.at_once(rows, meanwhile=lambda: fleet.kill(killed))
    finally:
        until(lambda: fleet.get("/readyz") is not None, "the API is back", seconds=EFFECT_SECONDS)
        fleet.limit_a_day(None)
    states = Counter(one.status for one in sent)
    assert states == {"accepted": allowed, "awaiting_approval": len(rows) - allowed}, states
    waiting = [one for one in sent if one.status == "awaiting_approval"]
    for one, how in zip(waiting, cycle(DECISIONS), strict=False):
        clients.decide(one, how)
    scene.one_more_batch()


def _fresh_rows(scene: Scene) -> tuple[list[int], int]:
    """Rows that nobody has asked for, and how many records the present day counts."""
    with scene.fleet.reading() as session:
        digits = session.scalar(select(Dataset.id).filter_by(name=DATASET))
        asked = set(session.scalars(select(RequestRecord.row).filter_by(dataset_id=digits)))
        counted = session.scalar(
            select(func.sum(DeletionRequest.matched)).where(
                DeletionRequest.status.not_in(UNCOUNTED),
                or_(DeletionRequest.dataset_id == digits, DeletionRequest.dataset_id.is_(None)),
            )
        )
    fresh = sorted(set(range(len(scene.fleet.digits.record_ids))) - asked)
    return scene.chance.sample(fresh, min(AT_ONCE, len(fresh))), int(counted or 0)
