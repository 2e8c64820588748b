"""The Celery tasks: each wakes a lane."""

from __future__ import annotations

from service import broker
from workers.app import app, lane


@app.task(name=broker.RUN_BATCHES)
def run_batches() -> None:
    """Unlearn and erase whatever is due."""
    lane(broker.DELETIONS).run()


@app.task(name=broker.RUN_BACKGROUND)
def run_background() -> None:
    """Ingest, train, prepare, purge and sweep whatever is due."""
    lane(broker.BACKGROUND).run()
