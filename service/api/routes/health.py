"""Liveness and readiness of the process, without authentication and without any data."""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from pydantic import BaseModel, Field

from service.api import bodies, problems, readiness
from service.errors import Unavailable
from service.ledger.database import storage

router = bodies.router(tag="health")


class Health(BaseModel):
    """The process answers."""

    status: Literal["up"] = "up"


class Readiness(BaseModel):
    """Everything that a deletion needs is available."""

    status: Literal["ready"] = "ready"
    database: Literal["reachable"] = "reachable"
    broker: readiness.Broker = Field(
        description="not needed: without a broker workers find their work a little later"
    )
    worker: Literal["alive"] = Field(
        "alive", description="a worker wrote a heartbeat within the last seconds"
    )
    store: Literal["usable"] = Field(
        "usable", description="checkpoints and rows can be read and written"
    )


#: What is wrong, what still works and what to do, by the state of each part.
_DATABASE = {
    "unreachable": "the database does not answer: nothing can be recorded or looked up now, and "
    "what was accepted before is safe; try again",
    "not_migrated": "the database is not up to date: nothing can be recorded or looked up; "
    "run: unlearn migrate",
    **{fault.value: detail for fault, detail in storage.DETAILS.items()},
}
_STORE = {
    state: f"the store {what}: deletion requests are accepted and recorded, but nothing is "
    "carried out, downloaded or imported before it can be used; the log says more"
    for state, what in {
        "unreachable": "does not answer",
        "refused": "refuses this process",
        "unwritable": "cannot be read and written",
    }.items()
}
_WORKER = (
    "no worker lives: deletion requests are accepted, recorded and shown with their due dates, but "
    "nothing is carried out before a worker runs; start one, or look at its log"
)


@router.get("/healthz", response_model=Health, summary="The process is up")
async def healthz() -> Health:
    """Answer without checking anything else."""
    return Health()


@router.get(
    "/readyz",
    response_model=Readiness,
    responses=problems.responses(503),
    summary="Deletions can be recorded and carried out",
)
async def readyz(request: Request) -> Readiness:
    """Check the database and its schema, the broker, the store, and that a worker is live.

    503 if a deletion lacks something: `database`, `worker` and `store` in the problem say what, and
    the detail says what still works. An unreachable broker is shown and does no harm. It answers
    within five seconds.
    """
    checks: readiness.Checks = request.app.state.checks
    seen = await checks.look()
    if seen.database != "reachable" or seen.worker != "alive" or seen.store != "usable":
        raise Unavailable(
            _detail(seen),
            database=seen.database,
            broker=seen.broker,
            worker=seen.worker,
            store=seen.store,
        )
    return Readiness(broker=seen.broker)


def _detail(seen: readiness.Seen) -> str:
    if seen.database != "reachable":
        return _DATABASE[seen.database]
    if seen.store != "usable":
        return _STORE[seen.store]
    return _WORKER
