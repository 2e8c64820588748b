"""The Celery tasks: each wakes a lane."""

from __future__ import annotations

from service import broker
from workers.app import app, lane


@app.task(name=broker.RUN_BATCHES)
def run_batches() -> None:
    """Unlearn and erase what is due, as far as it needs no training."""
    lane(broker.DELETIONS).run()


@app.task(name=broker.RUN_TRAININGS)
def run_trainings() -> None:
    """Prepare anchors, unlearn by training, and train what is due."""
    lane(broker.TRAININGS).run()


@app.task(name=broker.RUN_BACKGROUND)
def run_background() -> None:
    """Ingest, purge and sweep what is due."""
    lane(broker.BACKGROUND).run()


@app.task(name=broker.RUN_EVENTS)
def run_events() -> None:
    """Watch due dates and deliver to webhooks."""
    lane(broker.EVENTS).run()
