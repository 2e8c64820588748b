"""Is the process up, and can it serve? Open to everyone; they tell nothing about the data."""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from pydantic import BaseModel, Field

from service.api import bodies, deps, problems
from service.errors import Unavailable
from service.ledger import schema

router = bodies.router(tag="health")


class Health(BaseModel):
    """The process answers."""

    status: Literal["up"] = "up"


class Readiness(BaseModel):
    """Everything that requests need is there."""

    status: Literal["ready"] = "ready"
    database: Literal["reachable"] = "reachable"
    broker: Literal["reachable", "unreachable", "unknown"] = Field(
        description="a hint: without a broker workers find their work a little later"
    )


@router.get("/healthz", response_model=Health, summary="The process is up")
async def healthz() -> Health:
    """Looks at nothing else."""
    return Health()


@router.get(
    "/readyz",
    response_model=Readiness,
    responses=problems.responses(503),
    summary="Requests can be served",
)
def readyz(request: Request, session: deps.Reader) -> Readiness:
    """Looks at the database and its schema."""
    if not schema.is_current(session):
        raise Unavailable("the database is not up to date; run: unlearn migrate")
    return Readiness(broker=request.app.state.wake.broker)
