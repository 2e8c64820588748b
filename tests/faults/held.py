"""Held batches: an operator approves them or takes them back, or nobody does anything."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select

from service.ledger.database import db
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables import Batch, DeletionRequest, Erasure, Model, Version
from tests.faults import side as sides
from tests.faults.breakages import EFFECT_SECONDS, Scene
from tests.faults.servers import until
from tests.faults.side import Side

HELD_POLICY = {"on_accuracy_drop": "hold"}
RECORDS = 12
#: How long a hold lasts that ends by itself.
HELD_SECONDS = 10


@dataclass
class Held:
    """A side whose batch is held, and with which version."""

    side: Side
    number: int


def hold(scene: Scene) -> Held:
    """Have a retrain lose so much accuracy that its batch is held, for weeks."""
    side = sides.make(scene, recipe=sides.POOR, policy=HELD_POLICY)
    side.ask(RECORDS)
    until(lambda: _held(side) is not None, f"a batch of {side.name} is held", **_PATIENCE)
    found = _held(side)
    assert found is not None, f"the batch of {side.name} is not held any more"
    side.ask(RECORDS)  # waits for the end of the hold
    return Held(side, found)


def approve(scene: Scene) -> None:
    """Every API is told to approve at the same time, and one process is killed."""
    held = hold(scene)
    path = f"{held.side.model}/versions/{held.number}:approve"
    at_once(scene, lambda: held.side.send("POST", path, {}, also=(409,)))
    _decide_the_next(held)
    held.side.until_completed()
    _has_been_live(held)
    scene.one_more_batch()


def take_back(scene: Scene) -> None:
    """The held version is withdrawn; the next ones do not wait."""
    held = hold(scene)
    path = f"{held.side.model}/versions/{held.number}:withdraw"
    answers = at_once(scene, lambda: held.side.send("POST", path, {"purge": "now"}))
    assert all(one.is_success for one in answers), answers
    held.side.note_withdrawn("version", held.number)
    _decide_the_next(held)
    held.side.until_completed()
    scene.one_more_batch()


def end_by_itself(scene: Scene) -> None:
    """Nobody decides, and all workers are killed meanwhile: it ends a margin before it is due."""
    held = hold(scene)
    _end_after(held, seconds=HELD_SECONDS)
    for name in scene.fleet.workers:
        scene.fleet.kill(name)
    until(lambda: _decided(held), f"the hold of {held.side.name} ends", **_PATIENCE)
    _decide_the_next(held)
    held.side.until_completed()
    _has_been_live(held)
    scene.one_more_batch()


def _end_after(held: Held, *, seconds: float) -> None:
    """Change the policy so that the hold ends by itself so long from now."""
    with held.side.scene.fleet.reading() as session:
        due = session.scalar(
            select(func.min(DeletionRequest.due_at))
            .join(Erasure, Erasure.request_id == DeletionRequest.id)
            .join(Batch, Batch.id == Erasure.batch_id)
            .join(Version, Version.id == Batch.version_id)
            .join(Model, Model.id == Version.model_id)
            .where(Model.name == held.side.name, Version.number == held.number)
        )
    assert due is not None
    margin = due - db.now() - timedelta(seconds=seconds)
    change = {"hold_margin_days": margin / timedelta(days=1)}
    held.side.send("PATCH", held.side.model, {"policy": change})


def at_once(scene: Scene, send: Any) -> list[Any]:
    """Do the same at two APIs, or twice at the same one, while a process is killed; the answers."""
    fleet = scene.fleet
    killed = scene.chance.choice([*fleet.apis, *fleet.workers])
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(send) for _ in range(2)]
        fleet.kill(killed)
        return [one.result() for one in sent]


def _held(side: Side) -> int | None:
    """Number of the held version; None: no batch is held."""
    with side.scene.fleet.reading() as session:
        return session.scalar(
            select(Version.number)
            .join(Batch, Batch.version_id == Version.id)
            .join(Model, Model.id == Batch.model_id)
            .where(Model.name == side.name, Batch.status == BatchStatus.HELD)
        )


def _decided(held: Held) -> bool:
    return _held(held.side) != held.number


def _decide_the_next(held: Held) -> None:
    """Let later batches go on, which would be held as well."""
    change = {"policy": {"on_accuracy_drop": "promote"}}
    held.side.send("PATCH", held.side.model, change)
    until(lambda: _decided(held), f"version {held.number} is decided on", **_PATIENCE)
    found = _held(held.side)
    if found is not None:  # of a batch that was formed before the change
        path = f"{held.side.model}/versions/{found}:approve"
        held.side.send("POST", path, {}, also=(409,))


def _has_been_live(held: Held) -> None:
    history = held.side.send("GET", f"{held.side.model}/aliases/production").json()["history"]
    live = [one["version"] for one in history["items"]]
    assert held.number in live, f"version {held.number} was decided on and never live: {live}"


_PATIENCE = {"seconds": EFFECT_SECONDS}
